"""The chat page as a person uses it, against a server with the demo model."""

import json
import shutil

import httpx
from prometheus_client.parser import text_string_to_metric_families
from serving import eventually, serving

SHOWN = "document.querySelector('section:last-child .body').textContent.length"
ENDED = "!controller && turns.at(-1)?.answer"
LONG = json.dumps({"ignore_eos": True, "max_tokens": 900})
REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"


def send(page, text):
    page.run("$('prompt').focus()")
    page.type(text)
    page.press("Enter")


def set_field(page, name, value):
    page.run(f"$('{name}').value = {json.dumps(value)}")


def shown(page, selector):
    """The visible text of the last answer's part."""
    return page.run(f"turns.at(-1).answer.element.querySelector('{selector}').innerText")


def running(server):
    page = httpx.get(f"{server.url}/metrics").raise_for_status().text
    families = text_string_to_metric_families(page)
    names = ["tyndall_ongoing_requests", "tyndall_requests_running"]
    return sum(sample.value for family in families for sample in family.samples if sample.name in names)


def test_the_first_message_wakes_the_model_and_shows_where_the_time_went(server, open_page, tmp_path):
    assert server.replicas() == []
    page = open_page(server)
    page.screenshot(tmp_path / "welcome.png")
    assert page.run("document.activeElement.id") == "prompt"
    send(page, "Write a haiku about Ray Serve.")
    page.until(ENDED)
    assert len(shown(page, ".body").splitlines()) == 3
    figures = shown(page, ".figures")
    for part in ["first token", "tokens/s", "prompt tokens", "output tokens"]:
        assert part in figures
    caption, *phases = shown(page, ".start").splitlines()
    assert caption.startswith("Cold start: the model woke in ")
    assert {"spawn", "process", "config", "weights", "engine", "prefill"} <= {name.split()[0] for name in phases}
    times = page.run("phasesOf(turns[0].answer.timing, turns[0].answer.first - turns[0].answer.started)")
    assert abs(sum(part["ms"] for part in times) - page.run("turns[0].answer.first - turns[0].answer.started")) < 1
    page.screenshot(tmp_path / "answer.png")
    # The next one is told what was said, and finds the model awake.
    send(page, "What is scale to zero?")
    page.until(f"{ENDED} && turns.length === 2")
    assert not page.run("turns[1].answer.element.querySelector('.start').checkVisibility()")
    assert page.run("turns[1].answer.usage.prompt_tokens > turns[0].answer.usage.total_tokens")
    page.run("[...document.querySelectorAll('button')].findLast((b) => b.textContent === 'Regenerate').click()")
    page.until(f"{ENDED} && turns[1].answer.text")
    page.run("$('new').click()")
    assert page.run("turns.length") == 0
    assert page.run("$('welcome').checkVisibility()")


def test_an_answer_grows_until_a_stop_ends_the_work_on_the_server(server, open_page, tmp_path):
    page = open_page(server)
    set_field(page, "more", LONG)
    for stop in ["$('stop').click()", None]:
        send(page, "Hello")
        page.until(f"controller && {SHOWN} > 0")
        before = page.run(SHOWN)
        page.until(f"controller && {SHOWN} > {before}")
        page.screenshot(tmp_path / "streaming.png")
        assert running(server) > 0
        page.run(stop) if stop else page.press("Escape")
        page.until(ENDED)
        assert "stopped" in shown(page, ".figures")
        assert page.run("turns.at(-1).answer.text")
        eventually("nothing runs", lambda: running(server) == 0)


def test_an_error_is_shown_with_its_cure_and_can_be_cured(server, open_page, tmp_path):
    page = open_page(server, errors=[REFUSED])
    set_field(page, "max_tokens", "0")
    send(page, "Hello")
    page.until(ENDED)
    problem = shown(page, ".problem")
    assert "400: max_tokens must be an integer of at least 1, got 0" in problem
    assert "Look at max_tokens in the settings" in problem
    page.screenshot(tmp_path / "error.png")
    page.run("turns[0].answer.problem.querySelector('button').click()")
    assert page.run("document.activeElement.id") == "max_tokens"
    set_field(page, "more", "{")
    page.run("turns[0].answer.problem.querySelectorAll('button')[1].click()")
    page.until(ENDED)
    assert "more parameters are not JSON" in shown(page, ".problem")
    set_field(page, "more", "")
    set_field(page, "max_tokens", "3")
    page.run("turns[0].answer.problem.querySelectorAll('button')[1].click()")
    page.until(f"{ENDED} && turns[0].answer.text")
    assert "ended at max tokens" in shown(page, ".figures")


def test_a_model_without_chat_template_goes_on_with_plain_text(home, server, open_page, tmp_path):
    (demo,) = (home / "tyndall" / "demo").iterdir()
    model = tmp_path / "base"
    shutil.copytree(demo, model, ignore=shutil.ignore_patterns("chat_template.jinja", ".tyndall"))
    with serving(tmp_path, str(model)) as base:
        page = open_page(base, errors=[REFUSED])
        set_field(page, "max_tokens", "4")
        send(page, "Ray Serve is")
        page.until(ENDED)
        assert "no chat template" in shown(page, ".problem")
        page.run("turns[0].answer.problem.querySelector('button').click()")
        page.until(f"{ENDED} && turns[0].answer.text")
        assert "as plain text" in shown(page, ".figures")


def test_pages_of_other_origins_are_let_in_by_name(server, browser, elsewhere):
    ask = f"""fetch("{server.url}/v1/models", {{headers: {{authorization: "Bearer x"}}}})
      .then((answer) => [answer.status, Boolean(answer.headers.get("x-request-id"))], () => "kept back")"""
    for host, expected in [("127.0.0.1", [200, True]), ("localhost", "kept back")]:
        page = browser.open(f"http://{host}:{elsewhere}/")
        assert page.run(ask) == expected
        page.close()


def test_it_fits_narrow_windows_and_both_schemes(server, open_page, tmp_path):
    page = open_page(server)
    page.run("send('a'.repeat(200)); controller.abort()")
    page.until(ENDED)
    text = "```py\n" + "x = 1; " * 40 + "\n```\n" + "b" * 300
    page.run(f"turns[0].answer.add({{text: {json.dumps(text)}, reasoning: '', toolCalls: []}}); turns[0].answer.draw()")
    page.run("showSettings(true)")
    colours = set()
    for scheme in ["light", "dark"]:
        page.scheme(scheme)
        page.size(320, 640)
        assert page.run("document.documentElement.scrollWidth") <= 320
        colours.add(page.run("getComputedStyle(document.body).backgroundColor"))
        page.screenshot(tmp_path / f"{scheme}.png")
    assert len(colours) == 2
    unnamed = """[...document.querySelectorAll("button, select, input, textarea")].filter((control) =>
      !control.textContent.trim() && !control.labels?.length)"""
    assert page.run(f"{unnamed}.length") == 0


def test_text_of_a_model_is_never_markup(server, open_page):
    page = open_page(server)
    for text, expected in [
        ("a\nb", "<p>a\nb</p>"),
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("`<b>` **b *i* b**", "<p><code>&lt;b&gt;</code> <strong>b <em>i</em> b</strong></p>"),
        ("2*3*4 and **", "<p>2*3*4 and **</p>"),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        (
            '[x](https://a.example/"onclick=")',
            '<p><a href="https://a.example/&quot;onclick=&quot;" target="_blank" rel="noopener noreferrer">x</a></p>',
        ),
        ("# T\n---\n> q", "<h3>T</h3><hr><blockquote><p>q</p></blockquote>"),
        ("1. a\n   - b\n2. c", '<ol start="1"><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ol>'),
        ("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
        ("```js\nif (a < b) {\n", '<pre tabindex="0" data-language="js"><code>if (a &lt; b) {\n</code></pre>'),
    ]:
        found = page.run(f"el('div', {{}}, markdown({json.dumps(text)})).innerHTML")
        assert found == expected, text
    # Deep nesting and many marks end, too.
    for text in ["> " * 3000, "- " * 3000 + "x", "**a " * 3000, "a" + "`a" * 3000, "[" * 3000]:
        assert page.run(f"el('div', {{}}, markdown({json.dumps(text)})).textContent.length") > 0


def test_reasoning_and_tool_calls_are_put_together_from_their_pieces(server, open_page):
    page = open_page(server)
    call = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"city": '}}
    rest = {"index": 0, "function": {"arguments": '"Oslo"}'}}
    deltas = [{"reasoning_content": "Let me "}, {"reasoning_content": "see."}, {"content": "So"}]
    deltas += [{"tool_calls": [call]}, {"tool_calls": [rest]}]
    drawn = f"""(() => {{
      const answer = new Answer(false);
      document.body.append(answer.element);
      const wasOpen = [];
      for (const delta of {json.dumps(deltas)}) {{
        answer.add(pieceOf({{choices: [{{delta}}]}}));
        answer.draw();
        wasOpen.push(answer.reasoningBox.open);
      }}
      return [answer.thought.textContent, wasOpen, answer.body.textContent, JSON.parse(answer.calls.textContent)];
    }})()"""
    called = {"id": "c1", "name": "weather", "arguments": {"city": "Oslo"}}
    assert page.run(drawn) == ["Let me see.", [True, True, False, False, False], "So", called]
