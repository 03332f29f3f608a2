"""Applications of language models, which no Python serves: the server runs their engine itself.

They are Applications for `serve.run` and for an import path. What is described of one is what a config file says in its
place: `{"application": {"import_path": …, "args": …}}`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, Final

from . import _options
from .deployment import Application, Deployment

IMPORT_PATH: Final = "tyndall.llm:build_openai_app"
"""The name by which a config file asks for models; the server needs no Python for it."""

NATIVE: Final = "__serve_native__"
"""Attribute of the classes that stand for parts of the server: `server` of a model, `ingress` of several."""


class ModelApplication(Application):
    """Language models; `models` are their configurations, as a config file has them."""

    def __init__(self, models: list[dict[str, Any]]) -> None:
        if not models:
            raise ValueError("there is no model in the application\nname at least one in llm_configs")
        ids = [model_id(one) for one in models]
        for one in ids:
            if ids.count(one) > 1:
                raise ValueError(f"two models are called {one!r}\ngive each its own model_id")
        self.models = [_with_absolute_source(one) for one in models]

    @property
    def config(self) -> dict[str, Any]:
        """What stands for it in a config file."""
        return {"import_path": IMPORT_PATH, "args": {"llm_configs": self.models}}

    @property
    def described(self) -> dict[str, Any]:
        return {"application": self.config}

    @property
    def ingress(self) -> str:
        """The deployment of the first model."""
        return deployment_name(self.models[0])

    def __repr__(self) -> str:
        return f"Application(models={[model_id(one) for one in self.models]!r})"


def model_id(model: dict[str, Any]) -> str:
    named: str = model["model_loading_config"]["model_id"]
    return named


def deployment_name(model: dict[str, Any], prefix: str = "LLMServer:") -> str:
    """As in Ray: the id in a form that a path can have."""
    given: str | None = (model.get("deployment_config") or {}).get("name")
    return given or prefix + model_id(model).replace("/", "--").replace(".", "_")


def _with_absolute_source(model: dict[str, Any]) -> dict[str, Any]:
    """A path means the same to the server as here; it begins like one, which names of Hugging Face do not."""
    loading = model["model_loading_config"]
    source = loading.get("model_source") or loading["model_id"]
    if not isinstance(source, str) or not source.startswith(("./", "../", "~")):
        return model
    source = os.path.abspath(os.path.expanduser(source))
    return {**model, "model_loading_config": {**loading, "model_source": source}}


def model_of(app_name: str, deployment_name: str) -> str | None:
    """The id of the model that a deployment of the server is; None where it is none."""
    from . import _admin

    applications = json.loads(_admin.request("GET", "/api/tyndall/applications/"))["applications"]
    application: dict[str, Any] = applications.get(app_name) or {"deployments": {}}
    model: str | None = (application["deployments"].get(deployment_name) or {}).get("model_id")
    return model


def native(app: Application) -> Application:
    """An application of the classes of `serve.llm` is one of models; others stay as they are.

    Raises ValueError for one that asks for something else than these classes do.
    """
    if isinstance(app, ModelApplication):
        return app
    bound = app._bound
    kind = _kind(bound)
    if kind is None:
        return app
    if kind == "server":
        return ModelApplication([_model(bound)])
    servers = list(_applications([bound.init_args, bound.init_kwargs]))
    models: list[dict[str, Any]] = []
    for one in servers:
        if isinstance(one, ModelApplication):
            models += one.models
        elif _kind(one._bound) == "server":
            models.append(_model(one._bound))
        else:
            raise ValueError(
                f"{bound.name!r} is bound to {one._bound.name!r}, which is no LLMServer\n"
                "bind it to applications of LLMServer or of build_llm_deployment"
            )
    return ModelApplication(models)


def _kind(bound: Deployment) -> str | None:
    target = bound.func_or_class
    kind: str | None = getattr(target, NATIVE, None)
    if kind is not None and NATIVE not in vars(target):
        raise ValueError(
            f"{bound.name!r} extends a class of serve.llm, and the server runs no Python for models\n"
            "use the class itself, and put what is added into a deployment of its own that the model is bound into"
        )
    return kind


def _model(bound: Deployment) -> dict[str, Any]:
    """The model that an LLMServer is bound to, with the options of its deployment."""
    from .llm.config import LLMConfig

    given = [*bound.init_args, *bound.init_kwargs.values()]
    if len(given) != 1:
        raise ValueError(f"{bound.name!r} is bound to {len(given)} arguments\nbind an LLMServer to one LLMConfig")
    model = LLMConfig.parse("llm_config", given[0]).to_dict(only_set=True)
    options = {**_options.described(bound._options)}
    return {**model, "deployment_config": {**(model.get("deployment_config") or {}), **options}}


def _applications(given: Any) -> Iterator[Application]:
    """In lists and dictionaries, which is where an ingress has them."""
    if isinstance(given, Application):
        yield given
    elif isinstance(given, dict):
        for one in given.values():
            yield from _applications(one)
    elif isinstance(given, (list, tuple)):
        for one in given:
            yield from _applications(one)
