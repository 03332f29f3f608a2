"""What is said of a language model, by Ray Serve's names.

Fields are those of `docs/config.md`, where each says what becomes of it. Here only their form is looked at; what they
mean is checked by whoever carries them out, as for a config file.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _checks as checks
from .._model import Model, option, plain, required
from ..config import RequestRouterConfig

__all__ = ["CloudMirrorConfig", "LLMConfig", "LLMServingArgs", "LoraConfig", "ModelLoadingConfig"]


def _plain_mapping(name: str, value: Any) -> dict[str, Any]:
    """A dictionary; records of options in it become dictionaries too."""
    return checks.json_mapping(name, plain(value, only_set=True))


def _model_source(name: str, value: Any) -> str | dict[str, Any]:
    return value if isinstance(value, str) else _plain_mapping(name, value)


@dataclass(kw_only=True)
class CloudMirrorConfig(Model):
    """A model in a bucket."""

    bucket_uri: str | None = option(None, checks.nullable(checks.text))
    extra_files: list[dict[str, Any]] = option([], checks.listed(checks.json_mapping))


@dataclass(kw_only=True)
class LoraConfig(Model):
    """Adapters of a model."""

    dynamic_lora_loading_path: str | None = option(None, checks.nullable(checks.text))
    max_num_adapters_per_replica: int = option(16, checks.whole(1))
    download_timeout_s: float | None = option(30.0, checks.nullable(checks.POSITIVE))
    max_download_tries: int = option(3, checks.whole(1))


@dataclass(kw_only=True)
class ModelLoadingConfig(Model):
    """Which model."""

    model_id: str = required(checks.text)
    model_source: str | dict[str, Any] | None = option(None, checks.nullable(_model_source))
    tokenizer_source: str | None = option(None, checks.nullable(checks.text))


def _loading(name: str, value: Any) -> ModelLoadingConfig:
    try:
        return ModelLoadingConfig.parse(name, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Invalid model_loading_config: {error}") from None


def _engine(name: str, value: Any) -> str:
    text = getattr(value, "value", value)
    if text != "vLLM":
        raise ValueError(f"Unsupported engine: {checks.shown(text)}\nleave {name} out: models run on the engine inside")
    return "vLLM"


def _router(value: Any) -> dict[str, Any]:
    """With the path of its class. An infinite threshold, which JSON has not, is none."""
    router: dict[str, Any] = plain(value, only_set=True) if not isinstance(value, Mapping) else dict(value)
    kwargs = router.get("request_router_kwargs")
    if isinstance(kwargs, Mapping):
        router["request_router_kwargs"] = {key: None if given == math.inf else given for key, given in kwargs.items()}
    return RequestRouterConfig.parse("request_router_config", router).to_dict(only_set=True)


def _deployment_config(name: str, value: Any) -> dict[str, Any]:
    given = dict(value) if isinstance(value, Mapping) else value
    if isinstance(given, dict) and given.get("request_router_config") is not None:
        given["request_router_config"] = _router(given["request_router_config"])
    given = _plain_mapping(name, given)
    for key in ("placement_group_bundles", "placement_group_strategy"):
        if key in given:
            raise ValueError(
                f"{key} must not be specified in deployment_config\nwrite placement_group_config beside it"
            )
    return given


def _experimental(name: str, value: Any) -> dict[str, Any]:
    given = _plain_mapping(name, value)
    if "num_router_replicas" in given:
        raise ValueError(f"{name} has num_router_replicas, which is called num_ingress_replicas now\nrename it")
    return given


def _lora(name: str, value: Any) -> dict[str, Any]:
    return LoraConfig.parse(name, value).to_dict(only_set=True)


def _server_class(name: str, value: Any) -> str | Callable[..., Any]:
    return value if inspect.isclass(value) else checks.import_path(name, value)


@dataclass(kw_only=True)
class LLMConfig(Model):
    """A language model: which it is, how its engine runs, and the options of its deployment."""

    model_loading_config: ModelLoadingConfig | dict[str, Any] = required(_loading)
    llm_engine: str = option("vLLM", _engine)
    engine_kwargs: dict[str, Any] = option({}, _plain_mapping)
    accelerator_type: str | None = option(None, checks.nullable(checks.text))
    accelerator_config: dict[str, Any] | None = option(None, checks.nullable(_plain_mapping))
    placement_group_config: dict[str, Any] | None = option(None, checks.nullable(_plain_mapping))
    lora_config: LoraConfig | dict[str, Any] | None = option(None, checks.nullable(_lora))
    deployment_config: dict[str, Any] = option({}, _deployment_config)
    runtime_env: dict[str, Any] | None = option(None, checks.nullable(_plain_mapping))
    server_cls: str | Callable[..., Any] | None = option(None, checks.nullable(_server_class))
    experimental_configs: dict[str, Any] = option({}, _experimental)
    log_engine_metrics: bool | None = option(True, checks.nullable(checks.boolean))
    callback_config: dict[str, Any] | None = option(None, checks.nullable(_plain_mapping))

    @property
    def _model(self) -> ModelLoadingConfig:
        return ModelLoadingConfig.parse("model_loading_config", self.model_loading_config)

    @property
    def model_id(self) -> str:
        """What clients call it."""
        return self._model.model_id

    @property
    def input_modality(self) -> str:
        return "text"

    @property
    def max_request_context_length(self) -> int | None:
        return self.engine_kwargs.get("max_model_len")

    def update_engine_kwargs(self, **kwargs: Any) -> None:
        """Lays these over `engine_kwargs`."""
        self.engine_kwargs = _plain_mapping("engine_kwargs", {**self.engine_kwargs, **kwargs})

    def to_dict(self, *, only_set: bool = False) -> dict[str, Any]:
        from .deployment import LLMServer

        fields = super().to_dict(only_set=only_set)
        if fields.get("server_cls") is LLMServer:
            # It is what serves the model in any case.
            del fields["server_cls"]
        elif inspect.isclass(fields.get("server_cls")):
            fields["server_cls"] = checks.import_path("server_cls", fields["server_cls"])
        return fields

    @classmethod
    def from_file(cls, path: str | Path) -> LLMConfig:
        """One model from a file of YAML or JSON."""
        try:
            text = Path(path).read_text()
        except OSError as error:
            raise ValueError(
                f"failed to read the model {path}: {error.strerror}\nname a YAML file of one model, or write the model"
            ) from None
        return cls.parse(str(path), _read(text, str(path)))


def _read(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} is no JSON, and there is no library to read YAML\n"
            "run `pip install pyyaml`, or name the file in a config file, which needs no Python"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}\nmend it") from None


def _models(name: str, value: Any) -> list[LLMConfig]:
    models: list[LLMConfig] = checks.listed(_one_model)(name, value)
    if not models:
        raise ValueError(f"{name} is empty\nname at least one model")
    return models


def _one_model(name: str, value: Any) -> LLMConfig:
    if isinstance(value, (str, Path)):
        return LLMConfig.from_file(value)
    if isinstance(value, Mapping) or isinstance(value, LLMConfig):
        return LLMConfig.parse(name, value)
    raise checks.wrong_type(name, value, "an LLMConfig, a dictionary like one, or the path of a YAML file of one")


@dataclass(kw_only=True)
class LLMServingArgs(Model):
    """Arguments of `build_openai_app`."""

    llm_configs: list[Any] = required(_models)
    ingress_cls_config: dict[str, Any] = option({}, checks.mapping)
    ingress_deployment_config: dict[str, Any] = option({}, _plain_mapping)
