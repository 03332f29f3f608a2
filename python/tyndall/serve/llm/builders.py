"""Functions that make applications of language models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

from .._models import ModelApplication, deployment_name
from ..deployment import Application
from .config import LLMConfig, LLMServingArgs
from .deployment import LLMServer

__all__ = [
    "build_dp_deployment",
    "build_dp_openai_app",
    "build_llm_deployment",
    "build_openai_app",
    "build_pd_openai_app",
]

logger = logging.getLogger("tyndall.serve")


def build_openai_app(llm_serving_args: LLMServingArgs | Mapping[str, Any]) -> Application:
    """An application of the models in `llm_configs`, with the API of OpenAI.

    It can be run, or stand at an import path; the server runs the models itself.
    Raises ValueError with the field, the cause and the cure.
    """
    args = LLMServingArgs.parse("llm_serving_args", llm_serving_args)
    for name in ("ingress_cls_config", "ingress_deployment_config"):
        if getattr(args, name):
            logger.warning(f"{name} has no effect: the proxy is the ingress")
    return ModelApplication([one.to_dict(only_set=True) for one in args.llm_configs])


def build_llm_deployment(
    llm_config: LLMConfig | Mapping[str, Any],
    *,
    name_prefix: str | None = None,
    bind_kwargs: Mapping[str, Any] | None = None,
    override_serve_options: Mapping[str, Any] | None = None,
    deployment_cls: type | None = None,
) -> Application:
    """An application of one model; its options are laid over by `override_serve_options`."""
    if bind_kwargs:
        raise ValueError(f"bind_kwargs has {', '.join(bind_kwargs)}\nleave it out: the engine's server is built in")
    if deployment_cls not in (None, LLMServer):
        raise ValueError(f"deployment_cls is {deployment_cls!r}\nleave it out: the engine's server is built in")
    model = LLMConfig.parse("llm_config", llm_config).to_dict(only_set=True)
    options = {**(model.get("deployment_config") or {}), **(override_serve_options or {})}
    if name_prefix is not None:
        options["name"] = name_prefix + deployment_name({**model, "deployment_config": options}, "")
    checked = LLMConfig.parse("llm_config", {**model, "deployment_config": options} if options else model)
    return ModelApplication([checked.to_dict(only_set=True)])


def _refuse(what: str, why: str) -> NoReturn:
    raise NotImplementedError(f"{what} is not there: {why}\nuse build_openai_app, and num_replicas for more throughput")


def build_pd_openai_app(pd_serving_args: Any) -> NoReturn:
    """Raises NotImplementedError: a replica keeps its cache to itself."""
    _refuse("prefill and decode on different replicas", "a replica keeps its cache to itself")


def build_dp_deployment(llm_config: Any, **_: Any) -> NoReturn:
    """Raises NotImplementedError: a replica is one process."""
    _refuse("attention on several replicas", "a replica is one process on this machine")


def build_dp_openai_app(dp_serving_args: Any) -> NoReturn:
    """Raises NotImplementedError: a replica is one process."""
    _refuse("attention on several replicas", "a replica is one process on this machine")
