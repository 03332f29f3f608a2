"""What a deployment says of its model: further names, defaults of sampling, another chat template."""

import httpx
import openai
import pytest
from serving import serving

TEMPLATE = "{% for message in messages %}{{ message['content'] | upper }}!{% endfor %}"


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    template = tmp_path_factory.mktemp("template") / "loud.jinja"
    template.write_text(TEMPLATE)
    flags = ["--aliases", "gpt-4o, claude-sonnet-4-5", "--chat-template", str(template)]
    flags += ["--override-generation-config", '{"max_new_tokens": 3, "temperature": 0}']
    with serving(tmp_path_factory.mktemp("home"), "demo", *flags) as server:
        yield server


def test_every_name_finds_the_model(named):
    client = openai.OpenAI(base_url=f"{named.url}/v1", api_key="unused", max_retries=0)
    assert [model.id for model in client.models.list()] == ["demo", "gpt-4o", "claude-sonnet-4-5"]
    assert client.models.retrieve("gpt-4o").root == "demo"
    said = set()
    for name in ["demo", "gpt-4o", "claude-sonnet-4-5"]:
        # Greedy and three tokens, because the deployment says so.
        answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hello"}])
        assert (answer.model, answer.usage.completion_tokens, answer.choices[0].finish_reason) == ("demo", 3, "length")
        said.add(answer.choices[0].message.content)
    assert len(said) == 1
    with pytest.raises(openai.NotFoundError, match="did you mean gpt-4o"):
        client.models.retrieve("gpt-4")


def test_the_template_is_the_one_that_was_given(named):
    asked = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "add_special_tokens": False}
    found = httpx.post(f"{named.url}/tokenize", json=asked).raise_for_status().json()
    plain = {"model": "demo", "prompt": "HELLO!", "add_special_tokens": False}
    expected = httpx.post(f"{named.url}/tokenize", json=plain).raise_for_status().json()
    assert found["tokens"] == expected["tokens"]
    refused = httpx.post(f"{named.url}/v1/chat/completions", json={**asked, "chat_template": TEMPLATE})
    assert refused.status_code == 400 and "chat_template" in refused.text
