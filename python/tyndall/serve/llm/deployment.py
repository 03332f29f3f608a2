"""The class that stands for a model's server in graphs that are put together by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from .._models import NATIVE
from .config import LLMConfig

__all__ = ["LLMServer"]


class LLMServer:
    """Serves a model; `serve.deployment(LLMServer).bind(llm_config)` is an application of it.

    There is never an object of it: the server runs the engine itself.
    """

    def __init__(self, llm_config: LLMConfig) -> NoReturn:
        raise RuntimeError(
            "an LLMServer is not constructed: the server runs the model's engine itself\n"
            "run the application that build_openai_app, or `bind` of this class, makes"
        )

    @classmethod
    def get_deployment_options(cls, llm_config: LLMConfig | Mapping[str, Any]) -> dict[str, Any]:
        """Options for `serve.deployment(LLMServer).options(...)`."""
        config = LLMConfig.parse("llm_config", llm_config)
        # What Ray does not have goes to the server with the model itself.
        return {name: value for name, value in config.deployment_config.items() if name != "tyndall"}


setattr(LLMServer, NATIVE, "server")
