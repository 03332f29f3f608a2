"""instructor: the pydantic model that was asked for comes back, in each of its modes."""

from typing import Literal

import instructor
import openai
import pydantic
from checks import MODEL, run, url
from schemas import Town

MESSAGES = [{"role": "user", "content": "A town"}]


class Street(pydantic.BaseModel):
    """A street with its houses."""

    model_config = pydantic.ConfigDict(extra="forbid")

    side: Literal["left", "right"] | None
    houses: list[Town] = pydantic.Field(min_length=1, max_length=2)


def client(mode: instructor.Mode) -> instructor.Instructor:
    plain = openai.OpenAI(base_url=f"{url()}/v1", api_key="unused", max_retries=0)
    return instructor.from_openai(plain, mode=mode)


def gives(mode: instructor.Mode):
    """Each model of a schema comes back at the first try, and with the answer that it was made of."""
    for model in (Town, Street):
        made, answer = client(mode).chat.completions.create_with_completion(
            model=MODEL, messages=MESSAGES, response_model=model, temperature=0, max_retries=0
        )
        assert isinstance(made, model)
        assert answer.usage.completion_tokens > 0


def tools():
    """a model back by a tool's call"""
    gives(instructor.Mode.TOOLS)


def tools_strict():
    """by a strict tool's"""
    gives(instructor.Mode.TOOLS_STRICT)


def json_schema():
    """by json_schema"""
    gives(instructor.Mode.JSON_SCHEMA)


def partial():
    """models grow as a stream comes"""
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        request = dict(model=MODEL, messages=MESSAGES, temperature=0, max_retries=0)
        whole = client(mode).chat.completions.create(**request, response_model=Town)
        parts = list(client(mode).chat.completions.create_partial(**request, response_model=Town))
        assert len(parts) > 2
        assert parts[-1].model_dump() == whole.model_dump()


run(tools, tools_strict, json_schema, partial)
