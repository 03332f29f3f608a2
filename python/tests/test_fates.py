"""Options that are accepted and have no effect, and those that are refused: as a config file says it of them."""

import re
from pathlib import Path

import cloudpickle
import pytest

from tyndall import serve
from tyndall.serve import _fates, _options, config
from tyndall.serve._graph import build
from tyndall.serve.autoscaling_policy import default_autoscaling_policy
from tyndall.serve.config import DEFAULT_ROUTER, GangSchedulingConfig
from tyndall.serve.experimental.capacity_queue import CapacityQueue
from tyndall.serve.request_router import PowerOfTwoChoicesRequestRouter, RequestRouter

FIELDS = Path(__file__).parents[2] / "crates/core/config/src/file/fields"

OBJECTS = {
    "": "DEPLOYMENT",
    "autoscaling_config": "AUTOSCALING",
    "ray_actor_options": "ACTOR",
    "request_router_config": "ROUTER",
    "logging_config": "LOGGING",
}
"""Where in the options stands which of the config file's tables."""


def table(name):
    """Fields of one of the config file's tables, with what becomes of each."""
    source = "".join(path.read_text() for path in sorted(FIELDS.glob("*.rs")))
    (body,) = re.findall(rf"static {name}: Object = .*?\n}};", source, re.DOTALL)
    # Fields that several tables have are constants.
    constants = dict(re.findall(r"const (\w+): Field =\s*(Field::new\(.*?);\n", source, re.DOTALL))
    for constant, field in constants.items():
        body = body.replace(f"        {constant},", f"        {field},")
    fields = re.split(r"Field::new\(", body)[1:]
    fate = lambda text: "ignored" if ".ignored(" in text else "refused" if ".refused(" in text else "used"  # noqa: E731
    return {re.match(r'\s*"(\w+)"', field)[1]: fate(field) for field in fields}


@serve.deployment
class Model:
    pass


class Plain:
    """An actor's."""


def actor(**options):
    return {"name": "a", "actor_class": Plain, "actor_options": options}


def test_the_config_file_says_the_same_of_actors():
    for name, before in (("OPTIONS", ""), ("ACTOR_ENV", "runtime_env.")):
        fields = table(name)
        own = {path: "ignored" for path in _fates.IGNORED_OF_ACTORS} | {
            path: "refused" for path in _fates.REFUSED_OF_ACTORS
        }
        own = {path.removeprefix(before): fate for path, fate in own.items() if path.startswith(before)}
        own = {path: fate for path, fate in own.items() if "." not in path}
        assert own == {field: fate for field, fate in fields.items() if fate != "used"}
    used = {field for field, fate in table("OPTIONS").items() if fate == "used"}
    assert used == set(_fates.CARRIED_OUT_OF_ACTORS) == set(config._ACTOR_OPTIONS)


@pytest.mark.parametrize(("where", "name"), OBJECTS.items())
def test_the_config_file_says_the_same(where, name):
    before = f"{where}." if where else ""
    fields = table(name)
    own = {path.removeprefix(before): "ignored" for path in _fates.IGNORED if path.startswith(before)}
    own = {path: fate for path, fate in own.items() if "." not in path}
    assert own == {field: fate for field, fate in fields.items() if fate != "used"}


def test_the_config_file_knows_all_that_is_described():
    assert set(_options.CHECKS) - set(table("DEPLOYMENT")) == {"max_constructor_retry_count"}
    assert set(_options.OWN) == set(table("TYNDALL"))
    for name in ("autoscaling_config", "logging_config", "request_router_config"):
        record = _options.CHECKS[name](name, {})
        assert set(record.field_names()) <= set(table(OBJECTS[name]))
    assert set(_options._ACTOR_OPTIONS) == set(table("ACTOR"))
    assert set(GangSchedulingConfig(gang_size=1).field_names()) == set(table("GANG"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"graceful_shutdown_wait_loop_s": 1}, "graceful_shutdown_wait_loop_s has no effect"),
        (
            {"placement_group_bundles": [{"CPU": 1}], "placement_group_strategy": "PACK"},
            "placement_group_strategy has no effect: this machine is the only node",
        ),
        (
            {"deployment_actors": [{"name": "queue", "actor_class": CapacityQueue, "init_kwargs": {"token_ttl_s": 1}}]},
            "CapacityQueue has no effect: CapacityQueueRouter keeps its tokens itself",
        ),
        (
            {"deployment_actors": [{"name": "a", "actor_class": Plain, "actor_options": {"max_restarts": 3}}]},
            "max_restarts in actor_options of the deployment actor 'a' has no effect: the server names it",
        ),
        (
            {"deployment_actors": [{"name": "a", "actor_class": Plain, "actor_options": {"enable_task_events": 1}}]},
            "'enable_task_events' in actor_options of the deployment actor 'a' is not known and has no effect",
        ),
        ({"ray_actor_options": {"accelerator_type": "T4"}}, "ray_actor_options.accelerator_type has no effect"),
        (
            {"ray_actor_options": {"runtime_env": {"pip": ["numpy"]}}},
            "ray_actor_options.runtime_env.pip has no effect",
        ),
        (
            {"ray_actor_options": {"runtime_env": {"colour": 1}}},
            "ray_actor_options.runtime_env.colour has no effect: it is unknown",
        ),
        (
            {"autoscaling_config": {"target_ongoing_requests": 6}},
            "a replica takes 5 requests and the target is 6: only requests that wait can add replicas",
        ),
        ({"num_replicas": "auto", "max_ongoing_requests": 1}, "a replica takes 1 requests and the target is 2"),
        (
            {"request_router_config": {"initial_backoff_s": 1}},
            "request_router_config.initial_backoff_s has no effect: the built-in rule has no arguments",
        ),
    ],
)
def test_what_does_not_do_what_it_says_is_warned_of(options, line, warned):
    build(Model.options(**options).bind())
    assert [line in one for one in warned()] == [True]
    assert warned()[0].startswith("deployment 'Model': ")


def test_what_says_the_default_is_not_warned_of(warned):
    build(
        Model.options(
            graceful_shutdown_wait_loop_s=2,
            logging_config={"enable_access_log": True},
            request_router_config={"request_router_class": DEFAULT_ROUTER},
            ray_actor_options={"runtime_env": {"env_vars": {"A": "b"}}},
        ).bind()
    )
    assert warned() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"deployment_actors": [{"name": "a", "actor_class": "no_such_module:C"}]},
            "the class of the deployment actor 'a', 'no_such_module:C', cannot be imported: No module named "
            "'no_such_module'\nmend its path",
        ),
        (
            {"deployment_actors": [{"name": "a", "actor_class": "math:pi"}]},
            "the class of the deployment actor 'a', 'math:pi', is float\nname a class",
        ),
        (
            {"deployment_actors": [actor(concurrency_groups={"io": 2})]},
            "concurrency_groups of the deployment actor 'a' cannot be carried out\nleave it out: all methods share",
        ),
        (
            {"deployment_actors": [actor(runtime_env={"working_dir": "."})]},
            "runtime_env.working_dir of the deployment actor 'a' cannot be carried out\nwrite it under",
        ),
        (
            {"deployment_actors": [actor(runtime_env={"env_vars": {"RAY_SERVE_INTERNAL_DEPLOYMENT_NAME": "x"}})]},
            "RAY_SERVE_INTERNAL_DEPLOYMENT_NAME of the deployment actor 'a' is the server's to set\nleave it out",
        ),
        (
            {"autoscaling_config": {"policy": {"policy_function": "tyndall.policies:shared_budget"}}},
            "autoscaling_config.policy names 'tyndall.policies:shared_budget', which is not there\nbuilt in are "
            "tyndall.policies:ongoing_requests",
        ),
        (
            {"autoscaling_config": {"policy": {"policy_function": "no_such_module:policy"}}},
            "the autoscaling policy 'no_such_module:policy' cannot be imported: No module named 'no_such_module'\n"
            "mend its path",
        ),
        (
            {"autoscaling_config": {"policy": {"policy_function": "math:pi"}}},
            "the autoscaling policy 'math:pi' is float\nname a function, or a class",
        ),
        (
            {"request_router_config": {"request_router_class": "no_such_module:C"}},
            "the request router 'no_such_module:C' cannot be imported: No module named 'no_such_module'\nmend its path",
        ),
        (
            {"request_router_config": {"request_router_class": "ray.serve.llm.request_router:PrefixCacheAffinityRouter"}},
            "PrefixCacheAffinityRouter is for models\nwrite it in the deployment_config of a model, or leave it out",
        ),
        (
            {"request_router_config": {"request_router_class": "math:pi"}},
            "the request router 'math:pi' is float\nmake it a class of serve.request_router.RequestRouter",
        ),
        (
            {"request_router_config": {"request_router_class": RequestRouter}},
            "the request router 'tyndall.serve.request_router:RequestRouter' has no choose_replicas\nwrite it",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused(options, message):
    with pytest.raises(ValueError, match=f"deployment 'Model': {message}|{message}"):
        build(Model.options(**options).bind())


def test_policies_that_are_built_in_are_taken_in_both_forms():
    for path in _fates.POLICIES:
        for text in (path, path.replace(":", ".")):
            build(Model.options(autoscaling_config={"policy": {"policy_function": text}}).bind())
    own = {"policy_function": default_autoscaling_policy}
    (one,) = build(Model.options(autoscaling_config={"policy": own}).bind()).described["deployments"]
    assert one["autoscaling_config"]["policy"]["policy_function"] in _fates.POLICIES


def test_the_router_that_is_built_in_has_one_path():
    for given in (
        PowerOfTwoChoicesRequestRouter,
        "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter",
        "ray.serve._private.request_router.pow_2_router:PowerOfTwoChoicesRequestRouter",
    ):
        config = {"request_router_class": given}
        (one,) = build(Model.options(request_router_config=config).bind()).described["deployments"]
        assert one["request_router_config"] == {"request_router_class": DEFAULT_ROUTER}


def test_a_router_of_the_code_goes_along_as_it_is():
    class Local(RequestRouter):
        async def choose_replicas(self, candidate_replicas, pending_request=None):
            return [candidate_replicas]

    config = {"request_router_class": Local, "initial_backoff_s": 1, "request_router_kwargs": {"a": 1}}
    built = build(Model.options(request_router_config=config).bind())
    (one,) = built.described["deployments"]
    path = f"{Local.__module__}:{Local.__qualname__}"
    assert one["request_router_config"] == {**config, "request_router_class": path}
    again = cloudpickle.loads(cloudpickle.dumps(built.code["Model"].options["request_router_config"]))
    assert again.get_request_router_class().__qualname__ == Local.__qualname__
