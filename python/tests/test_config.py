"""Configuration records."""

import copy
import logging
import pickle

import cloudpickle
import pytest

from tyndall.serve import autoscaling_policy, config, schema
from tyndall.serve.config import (
    AggregationFunction,
    AutoscalingConfig,
    AutoscalingContext,
    AutoscalingPolicy,
    ControllerOptions,
    DeploymentActorConfig,
    GangSchedulingConfig,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    RequestRouterConfig,
    TracingConfig,
    gRPCOptions,
)


def test_defaults_are_rays():
    scaling = AutoscalingConfig()
    assert scaling.to_dict() == {
        "min_replicas": 1,
        "initial_replicas": None,
        "max_replicas": 1,
        "target_ongoing_requests": 2.0,
        "metrics_interval_s": 10.0,
        "look_back_period_s": 30.0,
        "smoothing_factor": 1.0,
        "upscale_smoothing_factor": None,
        "downscale_smoothing_factor": None,
        "upscaling_factor": None,
        "downscaling_factor": None,
        "downscale_delay_s": 600.0,
        "downscale_to_zero_delay_s": None,
        "upscale_delay_s": 30.0,
        "aggregation_function": "mean",
        "policy": {"policy_function": config.DEFAULT_POLICY, "policy_kwargs": {}},
    }
    assert RequestRouterConfig().to_dict() == {
        "request_router_class": config.DEFAULT_ROUTER,
        "request_router_kwargs": {},
        "request_routing_stats_period_s": 10.0,
        "request_routing_stats_timeout_s": 30.0,
        "initial_backoff_s": 0.025,
        "backoff_multiplier": 2.0,
        "max_backoff_s": 0.5,
    }
    http = HTTPOptions()
    assert (http.host, http.port, http.keep_alive_timeout_s, http.request_timeout_s) == ("127.0.0.1", 8000, 90, None)
    grpc = gRPCOptions()
    assert (grpc.port, grpc.grpc_servicer_functions, grpc.enable_reflection) == (9000, [], True)
    assert (LoggingConfig().encoding, LoggingConfig().log_level, LoggingConfig().enable_access_log) == (
        "TEXT",
        "INFO",
        True,
    )
    assert TracingConfig().sampling_ratio == 0.01


def test_a_record_knows_what_was_set():
    scaling = AutoscalingConfig(max_replicas=3)
    assert scaling.model_fields_set == {"max_replicas"}
    scaling.min_replicas = 2
    assert scaling.to_dict(only_set=True) == {"min_replicas": 2, "max_replicas": 3}
    assert scaling.model_dump(exclude_unset=True) == scaling.to_dict(only_set=True)
    for copied in (copy.deepcopy(scaling), cloudpickle.loads(cloudpickle.dumps(scaling))):
        assert copied == scaling
        assert copied.model_fields_set == scaling.model_fields_set


def test_defaults_are_not_shared():
    one, other = RequestRouterConfig(), RequestRouterConfig()
    one.request_router_kwargs["a"] = 1
    assert other.request_router_kwargs == {}


def test_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'max_replica' is no field of AutoscalingConfig\ndid you mean max_replicas?"):
        AutoscalingConfig(max_replica=1)


def test_factors_fall_back_to_their_old_names():
    assert AutoscalingConfig().get_upscaling_factor() == 1.0
    old = AutoscalingConfig(smoothing_factor=0.5, upscale_smoothing_factor=0.25)
    assert (old.get_upscaling_factor(), old.get_downscaling_factor()) == (0.25, 0.5)
    new = AutoscalingConfig(smoothing_factor=0.5, upscaling_factor=2, downscaling_factor=3)
    assert (new.get_upscaling_factor(), new.get_downscaling_factor()) == (2.0, 3.0)


def test_intervals_are_warned_of():
    with pytest.warns(DeprecationWarning, match="metrics_interval_s has no effect"):
        AutoscalingConfig(metrics_interval_s=5)
    with pytest.warns(FutureWarning, match="look_back_period_s"):
        AutoscalingConfig(look_back_period_s=10)


def test_words_are_taken_in_any_case():
    assert AutoscalingConfig(aggregation_function="MAX").aggregation_function is AggregationFunction.MAX
    with pytest.raises(ValueError, match="one of mean, max, min"):
        AutoscalingConfig(aggregation_function="median")


def policy(context):
    return context.current_num_replicas, {}


def test_a_policy_is_a_path():
    assert AutoscalingPolicy(policy_function=policy).policy_function == f"{__name__}:policy"
    assert AutoscalingConfig().get_policy().policy_function == config.DEFAULT_POLICY
    with pytest.raises(ValueError, match="not JSON-serializable"):
        AutoscalingPolicy(policy_function="a:b", policy_kwargs={"a": object()})
    with pytest.raises(ValueError, match="import path"):
        AutoscalingPolicy(policy_function="alone")


def test_a_policy_that_stands_at_no_path_goes_along():
    limit = 3

    def inner(context):
        return limit, {}

    scaling = AutoscalingConfig(policy=AutoscalingPolicy(policy_function=inner), max_replicas=5)
    copied = AutoscalingConfig.parse("autoscaling_config", scaling)
    assert copied.get_policy().policy_function == f"{__name__}:{inner.__qualname__}"
    assert copied.get_policy().get_policy() is inner
    sent = pickle.loads(cloudpickle.dumps(copied))
    assert sent.get_policy().get_policy()(None) == (3, {})
    assert sent == copied
    named = AutoscalingPolicy(policy_function=f"{__name__}.policy")
    assert named.get_policy()(AutoscalingContext("d", "d", "a", 2, 3)) == (2, {})
    assert not named.is_default_policy_function() and AutoscalingPolicy().is_default_policy_function()
    default = AutoscalingPolicy().get_policy()
    assert default is autoscaling_policy.default_autoscaling_policy
    with pytest.raises(ModuleNotFoundError):
        AutoscalingPolicy(policy_function="no_such_module:policy").get_policy()


def test_decorators_of_policies_leave_them_as_they_are():
    assert autoscaling_policy.apply_autoscaling_config(policy) is policy
    assert autoscaling_policy.apply_app_level_autoscaling_config(policy) is policy


def test_rays_own_policies_can_be_named_and_called():
    for function in (autoscaling_policy.default_autoscaling_policy, "tyndall.serve.autoscaling_policy.default"):
        made = AutoscalingPolicy(policy_function=function).policy_function
        assert made.startswith("ray.serve.autoscaling_policy:")
    given = AutoscalingConfig(target_ongoing_requests=4, max_replicas=9)
    context = AutoscalingContext("d", "d", "a", 2, 3, total_num_requests=10, config=given)
    assert autoscaling_policy.default_autoscaling_policy(context) == (2.5, {})
    context.current_num_replicas = 0
    assert autoscaling_policy.default_autoscaling_policy(context) == (3.0, {})


def test_the_context_of_policies_adds_up():
    context = AutoscalingContext("d", "d", "a", 2, 3, total_num_requests=10, total_queued_requests=4)
    assert context.total_running_requests == 6
    context.total_queued_requests = 20
    assert context.total_running_requests == 0


def test_log_levels_become_names():
    assert LoggingConfig(log_level=logging.WARNING).log_level == "WARNING"
    assert LoggingConfig(log_level="error").log_level == "ERROR"
    for given, known in [("warn", "WARNING"), ("FATAL", "CRITICAL"), (15, 15), ("NOTSET", 0), ("30", "WARNING")]:
        assert LoggingConfig(log_level=given).log_level == known
    for bad in ("LOUD", 101, None, 1.5):
        with pytest.raises(ValueError, match="DEBUG, INFO"):
            LoggingConfig(log_level=bad)


def test_log_attributes_are_those_of_python_and_are_not_compared():
    made = LoggingConfig(additional_log_standard_attrs=["name", "lineno", "name"])
    assert made.additional_log_standard_attrs == ["name", "lineno"]
    assert made == LoggingConfig()
    assert schema.LoggingConfig is LoggingConfig
    with pytest.raises(ValueError, match="attributes"):
        LoggingConfig(additional_log_standard_attrs=["colour"])


def test_options_of_listeners():
    with pytest.raises(ValueError, match="go together"):
        HTTPOptions(ssl_keyfile="key.pem")
    assert HTTPOptions(ssl_keyfile="key.pem", ssl_certfile="cert.pem").ssl_keyfile == "key.pem"
    with pytest.raises(ValueError, match="middlewares"):
        HTTPOptions(middlewares=[object()])
    with pytest.raises(ValueError, match="num_cpus"):
        HTTPOptions(num_cpus=1)
    with pytest.raises(ValueError, match="from 0 to 65535"):
        HTTPOptions(port=70_000)
    assert HTTPOptions(host=None).host is None
    with pytest.warns(DeprecationWarning, match="proxy_location"):
        assert HTTPOptions(location="NoServer").location is ProxyLocation.Disabled


def test_a_timeout_of_nothing_is_none():
    for of in (HTTPOptions, gRPCOptions):
        assert [of(request_timeout_s=given).request_timeout_s for given in (-1, 0, "2.5")] == [None, None, 2.5]
        with pytest.raises(ValueError, match="request_timeout_s"):
            of(request_timeout_s="soon")


def test_other_keys_of_listeners_are_warned_of_as_newer_versions_may_have_more(warned):
    assert HTTPOptions.parse("http_options", {"port": 1, "colour": 2}).user_set() == {"port": 1}
    assert warned() == ["'colour' is no field of HTTPOptions and has no effect"]
    with pytest.raises(ValueError, match="did you mean port?"):
        HTTPOptions.parse("http_options", {"prot": 1})
    with pytest.raises(ValueError, match="no field of LoggingConfig"):
        LoggingConfig.parse("logging_config", {"colour": 2})


def test_the_default_host_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_DEFAULT_HTTP_HOST", "0.0.0.0")
    assert HTTPOptions().host == "0.0.0.0"
    assert HTTPOptions(host="::1").host == "::1"


def test_the_controller_takes_variables_only():
    assert ControllerOptions(runtime_env={"env_vars": {"A": "b"}}).runtime_env == {"env_vars": {"A": "b"}}
    with pytest.raises(ValueError, match="pip\nonly env_vars"):
        ControllerOptions(runtime_env={"pip": ["a"]})


def test_required_fields_are_required():
    for of in (GangSchedulingConfig, DeploymentActorConfig):
        with pytest.raises(TypeError):
            of()


def test_a_proxy_has_its_old_word_too():
    assert ProxyLocation("NoServer") is ProxyLocation.Disabled
    with pytest.raises(ValueError):
        ProxyLocation("Somewhere")
