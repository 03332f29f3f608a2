"""llama-index with its OpenAILike: chat, completions, streams, tools, and models of pydantic back."""

import asyncio

from checks import MODEL, run, url
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from schemas import HAIKU, Ask, Town, Weather, check_call

MESSAGES = [ChatMessage(role="user", content=HAIKU)]


def llm(**change) -> OpenAILike:
    base = dict(
        model=MODEL,
        api_base=f"{url()}/v1",
        api_key="unused",
        temperature=0,
        max_retries=0,
        context_window=1024,
        max_tokens=200,
        is_chat_model=True,
        is_function_calling_model=True,
    )
    return OpenAILike(**base | change)


def chat():
    """chat"""
    answer = llm().chat(MESSAGES)
    assert answer.message.content
    assert answer.raw.choices[0].finish_reason == "stop"
    assert answer.additional_kwargs["completion_tokens"] > 0
    again = asyncio.run(llm().achat(MESSAGES))
    assert again.message.content == answer.message.content
    # A model of chat completes by asking itself.
    assert llm().complete(HAIKU).text == answer.message.content


def stream():
    """stream"""
    whole = llm().chat(MESSAGES).message.content
    parts = list(llm().stream_chat(MESSAGES))
    assert len(parts) > 4, "the text comes as it is made"
    assert "".join(part.delta for part in parts) == whole == parts[-1].message.content


def complete():
    """complete, whole and streamed"""
    plain = llm(is_chat_model=False, max_tokens=12)
    whole = plain.complete("Write a haiku")
    assert whole.text and whole.additional_kwargs["completion_tokens"] == 12
    parts = list(plain.stream_complete("Write a haiku"))
    assert "".join(part.delta for part in parts) == whole.text == parts[-1].text


def get_weather(place: str, unit: str) -> str:
    return f"Sunny in {place}."


def tools():
    """tools that must be called"""
    offered = [
        FunctionTool.from_defaults(get_weather, name="get_weather", description="Weather", fn_schema=Weather),
        FunctionTool.from_defaults(lambda question: question, name="ask", description="Ask", fn_schema=Ask),
    ]
    request = dict(tools=offered, user_msg=HAIKU, allow_parallel_tool_calls=False, strict=True)
    for wanted, names in [({"tool_required": True}, {"get_weather", "ask"}), ({"tool_choice": "ask"}, {"ask"})]:
        answer = llm().chat_with_tools(**request, **wanted)
        (call,) = llm().get_tool_calls_from_response(answer)
        assert call.tool_name in names
        check_call(call.tool_name, call.tool_kwargs)
        *_, last = llm().stream_chat_with_tools(**request, **wanted)
        (streamed,) = llm().get_tool_calls_from_response(last)
        assert (streamed.tool_name, streamed.tool_kwargs) == (call.tool_name, call.tool_kwargs)


def structured():
    """a model back by json_schema and by a tool"""
    for by_schema in (True, False):
        made = llm(should_use_structured_outputs=by_schema).as_structured_llm(Town).complete("A town").raw
        assert isinstance(made, Town)


run(chat, stream, complete, tools, structured)
