"""What the tests of several clients ask a model for: schemas that bound the length of every answer."""

from typing import Literal

import pydantic

HAIKU = "Write a haiku about Ray Serve."


class Town(pydantic.BaseModel):
    """A place."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(min_length=1, max_length=12)
    kind: Literal["village", "city"]
    on_a_river: bool


class Weather(pydantic.BaseModel):
    """The weather of a place."""

    model_config = pydantic.ConfigDict(extra="forbid")

    place: str = pydantic.Field(max_length=12)
    unit: Literal["C", "F"]


class Ask(pydantic.BaseModel):
    """A question back to the user."""

    model_config = pydantic.ConfigDict(extra="forbid")

    question: str = pydantic.Field(max_length=16)


TOOLS = {"get_weather": Weather, "ask": Ask}
OPENAI_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": model.__doc__,
            "parameters": model.model_json_schema(),
            "strict": True,
        },
    }
    for name, model in TOOLS.items()
]


def check_call(name: str, arguments: str | dict) -> pydantic.BaseModel:
    """A tool call's arguments as what the tool takes; raises where they do not fit."""
    model = TOOLS[name]
    if isinstance(arguments, str):
        return model.model_validate_json(arguments)
    return model.model_validate(arguments)
