"""Options of deployments: what each takes, and what does not go together."""

import pytest

from tyndall import serve
from tyndall.serve import _options
from tyndall.serve.config import AutoscalingConfig, BackpressureConfig, LoggingConfig, RequestRouterConfig


def function():
    return None


def of(**options):
    return serve.deployment(**options)(function)


def _actor(**options):
    return {"name": "a", "actor_class": "m:C", "actor_options": options}


GOOD = [
    ("name", "a-b.c:d/e_1"),
    ("num_replicas", 1),
    ("num_replicas", 3.0),
    ("num_replicas", "auto"),
    ("num_replicas", None),
    ("autoscaling_config", None),
    ("autoscaling_config", {"min_replicas": 0, "max_replicas": 4}),
    ("ray_actor_options", {"num_cpus": 0.5, "num_gpus": 0, "memory": 1 << 30, "resources": {"disk": 1}}),
    ("ray_actor_options", {"runtime_env": {"env_vars": {"A": "b"}}, "accelerator_type": "x"}),
    ("ray_actor_options", {"label_selector": {"a": "b"}, "fallback_strategy": [{"label_selector": {"a": "c"}}]}),
    ("placement_group_bundles", [{"CPU": 1.0}, {"GPU": 1.0}]),
    ("max_replicas_per_node", 100),
    ("user_config", {"a": [1, None, True]}),
    ("max_ongoing_requests", 1),
    ("max_queued_requests", -1),
    ("max_queued_requests", 1),
    ("backpressure_config", {"status_code": 429, "retry_after_s": 0}),
    ("graceful_shutdown_wait_loop_s", 0),
    ("graceful_shutdown_timeout_s", 0),
    ("health_check_period_s", 0.1),
    ("health_check_timeout_s", "2.5"),
    ("logging_config", {"log_level": "DEBUG"}),
    ("request_router_config", {"max_backoff_s": 1}),
    ("max_constructor_retry_count", 1),
    ("deployment_actors", [_actor(num_cpus=0.5, max_pending_calls=-1, name="of Ray")]),
    ("rolling_update_percentage", 1.0),
    ("max_surge_percent", 100),
    ("gang_scheduling_config", {"gang_size": 1}),
    ("tyndall", {"preload": ["torch", "a._b2"], "warm_processes": 2, "priority": -1, "pinned": True}),
    ("tyndall", {"warm_processes": None}),
]

BAD = [
    ("name", 3, TypeError, "name must be a string."),
    ("name", "a#b", ValueError, "must not contain the '#' character. Current name: a#b"),
    ("name", "", ValueError, "1 to 128 letters"),
    ("name", "a b", ValueError, "1 to 128 letters"),
    ("name", "a..b", ValueError, "1 to 128 letters"),
    ("name", "x" * 129, ValueError, "1 to 128 letters"),
    ("version", "1", ValueError, "has been removed"),
    ("num_replicas", 0, ValueError, "num_replicas is expected to larger than 0"),
    ("num_replicas", -1, ValueError, "from 1 on"),
    ("num_replicas", 1.5, ValueError, 'from 1 on, or "auto"'),
    ("num_replicas", "many", ValueError, 'from 1 on, or "auto"'),
    ("num_replicas", True, TypeError, 'from 1 on, or "auto"'),
    ("autoscaling_config", 3, TypeError, "AutoscalingConfig"),
    ("autoscaling_config", {"min_replica": 1}, ValueError, "did you mean min_replicas?"),
    ("autoscaling_config", {"min_replicas": 5}, ValueError, r"max_replicas \(1\) must be .* min_replicas \(5\)"),
    ("autoscaling_config", {"initial_replicas": 3}, ValueError, "must lie between"),
    ("ray_actor_options", 3, TypeError, "Expected a dictionary."),
    ("ray_actor_options", {"name": 1}, ValueError, "Specifying 'name' in ray_actor_options is not allowed"),
    ("ray_actor_options", {"num_cpus": -1}, ValueError, "from 0 on"),
    ("ray_actor_options", {"num_cpus": float("nan")}, ValueError, "from 0 on"),
    ("ray_actor_options", {"resources": [1]}, TypeError, "dictionary"),
    ("ray_actor_options", {"runtime_env": {"env_vars": {"A": 1}}}, TypeError, "use a text"),
    ("placement_group_bundles", [], ValueError, "at least one dictionary"),
    ("placement_group_bundles", [{}], ValueError, "at least one dictionary"),
    ("placement_group_bundles", {"CPU": 1}, TypeError, "a list"),
    ("max_replicas_per_node", 0, ValueError, "from 1 to 100"),
    ("max_replicas_per_node", 101, ValueError, "from 1 to 100"),
    ("user_config", object(), ValueError, "is not JSON-serializable"),
    ("max_ongoing_requests", None, ValueError, "`max_ongoing_requests` must be non-null, got None."),
    ("max_ongoing_requests", 0, ValueError, "from 1 on"),
    ("max_queued_requests", 0, ValueError, r"-1 \(no limit\)"),
    ("max_queued_requests", -2, ValueError, r"-1 \(no limit\)"),
    ("max_queued_requests", 1.5, TypeError, r"-1 \(no limit\)"),
    ("max_queued_requests", None, TypeError, r"-1 \(no limit\)"),
    ("backpressure_config", {"status_code": 500}, ValueError, "503 or 429"),
    ("backpressure_config", {"retry_after_s": -1}, ValueError, "from 0 on"),
    ("backpressure_config", {"retry_after_s": float("inf")}, ValueError, "from 0 on"),
    ("backpressure_config", {"status": 503}, ValueError, "no field of BackpressureConfig"),
    ("graceful_shutdown_wait_loop_s", -1, ValueError, "from 0 on"),
    ("graceful_shutdown_timeout_s", None, TypeError, "from 0 on"),
    ("health_check_period_s", 0, ValueError, "above 0"),
    ("health_check_timeout_s", "soon", TypeError, "above 0"),
    ("logging_config", {"level": "INFO"}, ValueError, "no field of LoggingConfig"),
    ("request_router_config", {"initial_backoff_s": 0}, ValueError, "above 0"),
    ("max_constructor_retry_count", 0, ValueError, "from 1 on"),
    ("tyndall", 3, TypeError, "a dictionary with texts as keys"),
    ("tyndall", {"preloads": []}, ValueError, "'preloads' is no field of tyndall\ndid you mean preload?"),
    ("tyndall", {"preload": "torch"}, TypeError, "a list"),
    ("tyndall", {"preload": ["a,b"]}, ValueError, "the name of a module such as 'torch' or 'a.b'"),
    ("tyndall", {"warm_processes": 65}, ValueError, "from 0 to 64"),
    ("gang_scheduling_config", {}, ValueError, "GangSchedulingConfig.gang_size is missing"),
    ("gang_scheduling_config", {"gang_size": 0}, ValueError, "from 1 on"),
    (
        "gang_scheduling_config",
        {"gang_size": 1, "runtime_failure_policy": "RESTART_REPLICA"},
        NotImplementedError,
        "RESTART_GANG",
    ),
    ("deployment_actors", [{"name": "a", "actor_class": "m:C"}] * 2, ValueError, "two actors"),
    ("deployment_actors", [{"name": "", "actor_class": "m:C"}], ValueError, "a name that is not empty"),
    ("deployment_actors", [{"name": "a"}], ValueError, "DeploymentActorConfig.actor_class is missing"),
    ("deployment_actors", [_actor(num_cpus=-1)], ValueError, "from 0 on"),
    ("deployment_actors", [_actor(max_concurrency=0)], ValueError, "from 1 on"),
    ("deployment_actors", [_actor(runtime_env={"env_vars": {"A": 1}})], TypeError, "use a text"),
    ("rolling_update_percentage", 0, ValueError, "above 0 and up to 1"),
    ("rolling_update_percentage", 1.1, ValueError, "above 0 and up to 1"),
    ("max_surge_percent", 101, ValueError, "from 0 to 100"),
    ("max_surge", 1, ValueError, "did you mean max_surge_percent?"),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_an_option_takes(name, value):
    assert name in of(**{name: value}).user_configured_option_names
    assert name in serve.deployment(function).options(**{name: value}).user_configured_option_names


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_an_option_does_not_take(name, value, error, message):
    with pytest.raises(error, match=message):
        of(**{name: value})


def test_each_option_is_tried():
    assert {name for name, _ in GOOD} >= {
        name for name in _options.CHECKS if not name.startswith("placement_group_")
    }


def test_messages_have_a_line_of_cause_and_one_of_cure():
    for name, value, error, _ in BAD:
        if name in ("ray_actor_options", "name"):
            continue
        with pytest.raises(error) as raised:
            of(**{name: value})
        assert len(str(raised.value).splitlines()) == 2, str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_replicas": 2, "autoscaling_config": {"max_replicas": 2}},
            "Manually setting num_replicas is not allowed when autoscaling_config is provided.",
        ),
        ({"placement_group_strategy": "PACK"}, "`placement_group_bundles` must also be provided"),
        ({"placement_group_bundle_label_selector": [{"a": "b"}]}, "`placement_group_bundles` must also be provided"),
        (
            {"placement_group_bundles": [{"CPU": 1}] * 3, "placement_group_bundle_label_selector": [{"a": "b"}] * 2},
            "2 entries for 3 bundles",
        ),
        ({"placement_group_bundles": [{"CPU": 1}], "placement_group_strategy": "NEAR"}, "one of PACK"),
        ({"placement_group_bundles": [{"CPU": 0.5}]}, "takes 1 CPU .* has 0.5"),
        (
            {"placement_group_bundles": [{"CPU": 1}], "ray_actor_options": {"num_gpus": 1}},
            "takes 1 GPU .* has 0",
        ),
        (
            {"placement_group_bundles": [{"CPU": 1}], "ray_actor_options": {"resources": {"disk": 2}}},
            "takes 2 disk .* has 0",
        ),
        (
            {"placement_group_bundles": [{"CPU": 1}], "max_replicas_per_node": 1},
            "Setting max_replicas_per_node is not allowed when placement_group_bundles is provided.",
        ),
        ({"gang_scheduling_config": {"gang_size": 2}, "num_replicas": 3}, r"num_replicas \(3\) must be a multiple"),
        ({"gang_scheduling_config": {"gang_size": 2}}, r"num_replicas \(1\) must be a multiple of gang_size \(2\)"),
        (
            {"gang_scheduling_config": {"gang_size": 2}, "autoscaling_config": {"max_replicas": 3}},
            r"max_replicas \(3\) must be a multiple",
        ),
        ({"gang_scheduling_config": {"gang_size": 1}, "max_replicas_per_node": 2}, "max_replicas_per_node is not"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        of(**options)


def test_bundles_that_hold_the_replica_are_taken():
    bundles = [{"CPU": 2.0, "GPU": 1.0, "disk": 3.0}, {"CPU": 1.0}]
    actor = {"num_cpus": 2, "num_gpus": 1, "resources": {"disk": 3}}
    selector = [{"zone": "a"}]
    made = of(
        placement_group_bundles=bundles,
        placement_group_strategy="spread",
        placement_group_bundle_label_selector=selector,
        ray_actor_options=actor,
    )
    assert made._options["placement_group_strategy"] == "SPREAD"


def test_auto_lies_under_what_was_set():
    made = of(num_replicas="auto", autoscaling_config={"min_replicas": 5})._options["autoscaling_config"]
    assert (made.min_replicas, made.max_replicas, made.target_ongoing_requests) == (5, 100, 2)
    assert made.user_set() == {"min_replicas": 5}
    with pytest.raises(ValueError, match=r"max_replicas \(100\) must be"):
        of(
            num_replicas="auto",
            autoscaling_config=AutoscalingConfig(min_replicas=200, max_replicas=300).user_set()
            | {
                "max_replicas": 100,
            },
        )


def test_records_and_dictionaries_are_the_same():
    for name, record, fields in [
        ("autoscaling_config", AutoscalingConfig(max_replicas=3), {"max_replicas": 3}),
        ("backpressure_config", BackpressureConfig(status_code=429), {"status_code": 429}),
        ("logging_config", LoggingConfig(encoding="json"), {"encoding": "JSON"}),
        ("request_router_config", RequestRouterConfig(max_backoff_s=1), {"max_backoff_s": 1}),
    ]:
        assert of(**{name: record})._options == of(**{name: fields})._options
