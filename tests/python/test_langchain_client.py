"""langchain-openai, unmodified, against the demo model."""

import pytest
from langchain_openai import ChatOpenAI
from schemas import HAIKU, Ask, Town, Weather, check_call


@pytest.fixture
def chat(server):
    return ChatOpenAI(
        model="demo",
        base_url=f"{server.url}/v1",
        api_key="unused",
        temperature=0,
        max_retries=0,
        stream_usage=True,
    )


def test_invoke_and_stream_say_the_same(chat):
    whole = chat.invoke(HAIKU)
    chunks = list(chat.stream(HAIKU))
    assert "".join(chunk.content for chunk in chunks) == whole.content != ""
    total = sum(chunks[1:], chunks[0])
    assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
    assert total.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_the_model_of_the_schema(chat, method):
    town = chat.with_structured_output(Town, method=method).invoke("A town")
    assert isinstance(town, Town)


def test_tools_that_must_be_called_are(chat):
    for choice, names in [("any", {"Weather", "Ask"}), ("Ask", {"Ask"})]:
        bound = chat.bind_tools([Weather, Ask], tool_choice=choice, parallel_tool_calls=False)
        whole = bound.invoke("How is the weather?")
        (call,) = whole.tool_calls
        assert call["name"] in names
        check_call({"Weather": "get_weather", "Ask": "ask"}[call["name"]], call["args"])
        chunks = list(bound.stream("How is the weather?"))
        (streamed,) = sum(chunks[1:], chunks[0]).tool_calls
        assert streamed["args"] == call["args"]


def test_the_responses_api(server, chat):
    by_responses = ChatOpenAI(
        model="demo",
        base_url=f"{server.url}/v1",
        api_key="unused",
        temperature=0,
        use_responses_api=True,
    )
    assert by_responses.invoke(HAIKU).text == chat.invoke(HAIKU).text
    streamed = list(by_responses.stream(HAIKU))
    assert "".join(chunk.text for chunk in streamed) == chat.invoke(HAIKU).text
