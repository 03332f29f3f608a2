"""The class that stands for the ingress of models in graphs that are put together by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from .._models import NATIVE

__all__ = ["OpenAiIngress", "make_fastapi_ingress"]


class OpenAiIngress:
    """Answers the API of OpenAI for several models, which it is bound to.

    There is never an object of it: the proxy does that itself.
    """

    def __init__(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            "an OpenAiIngress is not constructed: the proxy answers for models itself\n"
            "run the application that build_openai_app, or `bind` of this class, makes"
        )

    @classmethod
    def get_deployment_options(cls, llm_configs: Sequence[Any] | None = None) -> dict[str, Any]:
        """Options for `serve.deployment(OpenAiIngress).options(...)`: none, as there is no such deployment."""
        return {}


setattr(OpenAiIngress, NATIVE, "ingress")


def make_fastapi_ingress(cls: type, *, endpoint_map: Any = None, app: Any = None) -> type:
    """The class itself: its routes are the proxy's.

    Raises ValueError for routes of one's own.
    """
    if endpoint_map is not None or app is not None:
        raise ValueError(
            "the routes of models are the proxy's, and no others can be added\n"
            "put others into an application of their own, at another route_prefix"
        )
    return cls
