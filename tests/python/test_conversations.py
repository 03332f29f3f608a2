"""What Codex and Claude Code send, as requests with what is expected of the answers; written from public documents."""

import json
from pathlib import Path

import httpx
import pytest
from checkpoints import demo_with_a_long_context
from serving import serving

CONVERSATIONS = sorted((Path(__file__).parent / "conversations").glob("*.json"))
TURNS = [
    pytest.param(turn, conversation["headers"], id=f"{file.stem}: {turn['what']}")
    for file in CONVERSATIONS
    for conversation in [json.loads(file.read_text())]
    for turn in conversation["turns"]
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    model = str(demo_with_a_long_context(tmp_path_factory.mktemp("checkpoints") / "long", 16_384))
    flags = ["--aliases", "claude-sonnet-4-5,claude-haiku-4-5,gpt-5-codex", "--tool-call-parser", "hermes"]
    with serving(tmp_path_factory.mktemp("home"), model, "--min-replicas", "1", *flags) as server:
        yield server.url


def at(value, path: str):
    for key in path.split("."):
        value = value[key]
    return value


@pytest.mark.parametrize(("turn", "headers"), TURNS)
def test_the_answer_is_what_the_client_expects(url, turn, headers):
    expect = turn["expect"]
    answer = ask(url, turn, headers)
    assert answer.status_code == expect["status"], answer.text
    if "events" in expect:
        events = read(answer)
        for _ in range(20):
            # The clients ask for temperature 1, where a model may end before it has said a word.
            if not missing(events, expect):
                break
            events = read(ask(url, turn, headers))
        check_events(events, expect)
        check_content(events, expect)
    else:
        body = answer.json()
        for path, value in expect.get("fields", {}).items():
            assert at(body, path) == value, body
        for path in expect.get("positive", []):
            assert at(body, path) > 0, body


def ask(url, turn, headers):
    request = turn["request"]
    method = "GET" if request is None else "POST"
    return httpx.request(method, f"{url}{turn['path']}", json=request, headers=headers, timeout=120)


def missing(events: list[tuple[str, dict]], expect: dict) -> list[str]:
    names = [name for name, _ in events]
    return [name for name in expect["events"] if name not in names]


def read(answer) -> list[tuple[str, dict]]:
    """Named events, each with one line of JSON that says the same name."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for event in answer.text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        data = json.loads(data.removeprefix("data: "))
        assert name.removeprefix("event: ") == data["type"]
        events.append((data["type"], data))
    return events


def check_events(events: list[tuple[str, dict]], expect: dict):
    names = [name for name, _ in events]
    assert not missing(events, expect), names
    last = expect["last"] if isinstance(expect["last"], list) else [expect["last"]]
    assert [name for name in names if name in last] == names[-1:], names


def check_content(events: list[tuple[str, dict]], expect: dict):
    if expect.get("numbered"):
        assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    if "json_text" in expect:
        text = "".join(data["delta"].get("text", "") for name, data in events if name == "content_block_delta")
        assert sorted(json.loads(text)) == expect["json_text"]
    if "call" in expect:
        begun = [data["content_block"] for name, data in events if name == "content_block_start"]
        assert [block["name"] for block in begun if block["type"] == "tool_use"][0] in expect["call"]
