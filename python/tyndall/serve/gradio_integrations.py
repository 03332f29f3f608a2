"""Interfaces of Gradio as deployments."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .deployment import deployment
from .http import ingress

__all__ = ["GradioIngress", "GradioServer"]


@ingress()
class GradioIngress:
    """Answers with an interface of Gradio. A class of this one may have handles, for the functions of its interface."""

    def __init__(self, builder: Callable[[], Any]) -> None:
        """`builder` makes the interface, a `gradio.Blocks`, in the replica."""
        try:
            gradio = importlib.import_module("gradio")
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise ModuleNotFoundError("there is no module gradio\ninstall it where replicas run", name="gradio") from None
        from fastapi import FastAPI

        # Not its own application alone: this makes it ready where nobody launches it.
        self.__application = gradio.mount_gradio_app(FastAPI(), builder(), path="")

    def __serve_build_asgi_app__(self) -> Any:
        return self.__application


GradioServer = deployment(GradioIngress)
"""A deployment of it: `GradioServer.options(...).bind(builder)`."""
