"""Applications of language models: what is described of them is what a config file says."""

import json
import math
import pickle

import pytest

from tyndall import llm, serve
from tyndall.serve import _models
from tyndall.serve._graph import build, describe
from tyndall.serve._graph import models_of as models_in
from tyndall.serve.config import AutoscalingConfig, RequestRouterConfig
from tyndall.serve.context import DeploymentID
from tyndall.serve.exceptions import RayServeException
from tyndall.serve.llm import (
    LLMConfig,
    LLMServer,
    LLMServingArgs,
    OpenAiIngress,
    build_llm_deployment,
    build_openai_app,
    build_pd_openai_app,
)
from tyndall.serve.llm.ingress import make_fastapi_ingress
from tyndall.serve.llm.request_router import PrefixCacheAffinityRouter

HAIKU = {"model_id": "haiku", "model_source": "demo"}


def models_of(app):
    described = describe(app)
    assert set(described) == {"application"}
    assert json.loads(json.dumps(described)) == described
    application = described["application"]
    assert application["import_path"] == "tyndall.llm:build_openai_app"
    assert set(application) == {"import_path", "args"}
    return application["args"]["llm_configs"]


def test_an_application_is_what_a_config_file_says():
    config = LLMConfig(
        model_loading_config=HAIKU,
        engine_kwargs={"max_model_len": 512},
        accelerator_type="L4",
        deployment_config={"autoscaling_config": AutoscalingConfig(min_replicas=0, max_replicas=2)},
    )
    expected = {
        "model_loading_config": HAIKU,
        "engine_kwargs": {"max_model_len": 512},
        "accelerator_type": "L4",
        "deployment_config": {"autoscaling_config": {"min_replicas": 0, "max_replicas": 2}},
    }
    for args in ({"llm_configs": [config]}, {"llm_configs": [expected]}, LLMServingArgs(llm_configs=[config])):
        assert models_of(build_openai_app(args)) == [expected]
    assert (config.model_id, config.max_request_context_length, config.input_modality) == ("haiku", 512, "text")
    config.update_engine_kwargs(max_num_seqs=2)
    assert models_of(build_llm_deployment(config))[0]["engine_kwargs"] == {"max_model_len": 512, "max_num_seqs": 2}
    assert llm.build_openai_app is build_openai_app


def test_a_model_of_a_file_is_read(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("model_loading_config: {model_id: haiku, model_source: demo}\n")
    assert models_of(build_openai_app({"llm_configs": [str(path)]})) == [{"model_loading_config": HAIKU}]
    path.write_text(json.dumps({"model_loading_config": HAIKU}))
    assert LLMConfig.from_file(path).model_id == "haiku"


def test_paths_mean_what_they_mean_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loading = {"model_id": "mine", "model_source": "./models/mine"}
    (model,) = models_of(build_openai_app({"llm_configs": [{"model_loading_config": loading}]}))
    assert model["model_loading_config"]["model_source"] == str(tmp_path / "models/mine")
    (model,) = models_of(build_openai_app({"llm_configs": [{"model_loading_config": {"model_id": "org/name"}}]}))
    assert model == {"model_loading_config": {"model_id": "org/name"}}


def test_a_model_names_the_router_of_prompts_as_ray_does():
    def described(router):
        config = LLMConfig(model_loading_config=HAIKU, deployment_config={"request_router_config": router})
        (model,) = models_of(build_openai_app({"llm_configs": [config]}))
        return model["deployment_config"]["request_router_config"]

    path = "tyndall.serve.llm.request_router:PrefixCacheAffinityRouter"
    kwargs = {"imbalanced_threshold": math.inf, "match_rate_threshold": 0.2}
    given = {"request_router_class": PrefixCacheAffinityRouter, "request_router_kwargs": kwargs}
    expected = {"request_router_class": path, "request_router_kwargs": {**kwargs, "imbalanced_threshold": None}}
    assert described(given) == expected
    assert described(RequestRouterConfig(request_router_class=PrefixCacheAffinityRouter)) == {
        "request_router_class": path
    }
    with pytest.raises(TypeError, match="PrefixCacheAffinityRouter is for models"):
        PrefixCacheAffinityRouter()


def test_options_are_laid_over_those_of_the_model():
    config = {"model_loading_config": HAIKU, "deployment_config": {"num_replicas": 1, "max_ongoing_requests": 3}}
    app = build_llm_deployment(config, name_prefix="Mine:", override_serve_options={"num_replicas": 2})
    (model,) = models_of(app)
    assert model["deployment_config"] == {"num_replicas": 2, "max_ongoing_requests": 3, "name": "Mine:haiku"}
    assert build(app).ingress == "Mine:haiku"
    dotted = build_openai_app({"llm_configs": [{"model_loading_config": {"model_id": "org/a-3.1"}}]})
    assert build(dotted).ingress == "LLMServer:org--a-3_1"


def test_graphs_of_the_classes_are_applications_of_models():
    config = LLMConfig(model_loading_config=HAIKU, deployment_config={"num_replicas": 2})
    options = LLMServer.get_deployment_options(config)
    server = serve.deployment(LLMServer).options(**options, max_ongoing_requests=3).bind(config)
    (model,) = models_of(server)
    assert model["model_loading_config"] == HAIKU
    assert model["deployment_config"] == {"num_replicas": 2, "max_ongoing_requests": 3}
    other = build_llm_deployment({"model_loading_config": {"model_id": "other"}})
    ingress = serve.deployment(make_fastapi_ingress(OpenAiIngress)).options(
        **OpenAiIngress.get_deployment_options([config])
    )
    app = ingress.bind(llm_deployments={"haiku": server, "other": other}, model_cards={})
    assert [one["model_loading_config"]["model_id"] for one in models_of(app)] == ["haiku", "other"]
    assert [one["model_loading_config"]["model_id"] for one in models_of(ingress.bind([other]))] == ["other"]


def test_a_model_is_a_deployment_of_the_application_that_it_is_bound_into():
    config = LLMConfig(**OTHER, deployment_config={"num_replicas": 2})
    bound = serve.deployment(LLMServer).options(name="mine").bind(config)
    app = Plain.bind([bound, {"again": bound}], other=build_llm_deployment(MODEL))
    described = describe(app)
    assert json.loads(json.dumps(described)) == described
    plain, *models = described["deployments"]
    assert (described["ingress"], plain["name"]) == ("Plain", "Plain")
    assert sorted(plain["calls"]) == ["LLMServer:haiku", "mine"]
    by_name = {one["name"]: one for one in models}
    assert all(set(one) == {"name", "init", "calls", "model"} and one["calls"] == [] for one in models)
    assert by_name["LLMServer:haiku"]["model"] == MODEL
    assert by_name["mine"]["model"] == {**OTHER, "deployment_config": {"num_replicas": 2, "name": "mine"}}

    built = build(app, "there")
    assert list(built.code) == ["Plain"] and models_in(app) == {"mine": "org/other.1", "LLMServer:haiku": "haiku"}
    (first, again), other = built.code["Plain"].init_args[0], built.code["Plain"].init_kwargs["other"]
    assert first == again["again"] and first.deployment_id == DeploymentID("mine", "there")
    assert pickle.loads(pickle.dumps(other.chat))._shared.model == "haiku"


class Extended(LLMServer):
    async def chat(self, request):
        return request


@serve.deployment
class Plain:
    def __init__(self, inner=None):
        pass


MODEL = {"model_loading_config": HAIKU}
OTHER = {"model_loading_config": {"model_id": "org/other.1", "model_source": "demo"}}


@pytest.mark.parametrize(
    ("make", "kind", "cause"),
    [
        (lambda: LLMConfig(model_loading_config={"id": "a"}), ValueError, "Invalid model_loading_config"),
        (lambda: LLMConfig(), ValueError, "LLMConfig.model_loading_config is missing"),
        (lambda: LLMConfig(model_loading_config={}), ValueError, "ModelLoadingConfig.model_id is missing"),
        (lambda: LLMConfig(**MODEL, llm_engine="other"), ValueError, "Unsupported engine: 'other'"),
        (lambda: LLMConfig(**MODEL, engine={}), ValueError, "'engine' is no field of LLMConfig"),
        (
            lambda: LLMConfig(**MODEL, deployment_config={"placement_group_bundles": []}),
            ValueError,
            "placement_group_bundles must not be specified in deployment_config",
        ),
        (
            lambda: LLMConfig(**MODEL, experimental_configs={"num_router_replicas": 1}),
            ValueError,
            "which is called num_ingress_replicas now",
        ),
        (lambda: build_openai_app({"llm_configs": []}), ValueError, "llm_configs is empty"),
        (lambda: build_openai_app({"llm_configs": [MODEL, MODEL]}), ValueError, "two models are called 'haiku'"),
        (lambda: build_openai_app({"llm_configs": ["none.yaml"]}), ValueError, "failed to read the model none.yaml"),
        (lambda: build_openai_app({"llm_configs": [1]}), TypeError, "llm_configs[0] is 1"),
        (lambda: build_llm_deployment(MODEL, bind_kwargs={"a": 1}), ValueError, "bind_kwargs has a"),
        (lambda: build_llm_deployment(MODEL, deployment_cls=Extended), ValueError, "deployment_cls is"),
        (lambda: describe(serve.deployment(Extended).bind(MODEL)), ValueError, "extends a class of serve.llm"),
        (lambda: describe(serve.deployment(LLMServer).bind()), ValueError, "is bound to 0 arguments"),
        (
            lambda: describe(serve.deployment(OpenAiIngress).bind([Plain.bind()])),
            ValueError,
            "'Plain', which is no LLMServer",
        ),
        (
            lambda: describe(Plain.bind(build_openai_app({"llm_configs": [MODEL, OTHER]}))),
            ValueError,
            "has several models",
        ),
        (
            lambda: describe(Plain.bind(build_llm_deployment(MODEL), build_llm_deployment(MODEL))),
            ValueError,
            "two models are called 'haiku'",
        ),
        (
            lambda: serve.run(Plain.bind(build_llm_deployment(MODEL)), _local_testing_mode=True),
            ValueError,
            "served without Python",
        ),
        (
            lambda: serve.run(build_openai_app({"llm_configs": [MODEL]}), _local_testing_mode=True),
            ValueError,
            "served without Python",
        ),
        (lambda: make_fastapi_ingress(OpenAiIngress, endpoint_map={}), ValueError, "no others can be added"),
        (lambda: LLMServer(MODEL), RuntimeError, "an LLMServer is not constructed"),
        (lambda: build_pd_openai_app({}), NotImplementedError, "is not there"),
    ],
)
def test_what_cannot_be_is_refused_with_cause_and_cure(make, kind, cause):
    with pytest.raises(kind) as told:
        make()
    first, cure = str(told.value).splitlines()
    assert cause in first
    assert cure
