"""Applications as graphs, and what they say of themselves."""

import dataclasses
import json
import threading

import cloudpickle
import pytest

from tyndall import serve
from tyndall.serve._graph import INGRESS, build, code_of, describe
from tyndall.serve.exceptions import RayServeException
from tyndall.serve.handle import DeploymentHandle


@serve.deployment
class Leaf:
    pass


@serve.deployment
class Node:
    def __init__(self, *args, **kwargs):
        pass


@dataclasses.dataclass
class Holder:
    inside: object


class Custom:
    def __init__(self, inside):
        self.inside = inside


def names(app):
    return [one["name"] for one in describe(app)["deployments"]]


def calls(app):
    return {one["name"]: one["calls"] for one in describe(app)["deployments"]}


def test_the_ingress_comes_first_and_callers_before_callees():
    leaf = Leaf.bind()
    left, right = Node.options(name="left").bind(leaf), Node.options(name="right").bind(leaf)
    app = Node.options(name="top").bind(left, right)
    assert describe(app)["ingress"] == "top"
    assert calls(app) == {"top": ["left", "right"], "right": ["Leaf"], "left": ["Leaf"], "Leaf": []}
    order = names(app)
    assert order[0] == "top"
    for name, called in calls(app).items():
        assert all(order.index(name) < order.index(one) for one in called)


def test_applications_are_found_at_any_depth():
    app = Node.bind(
        [Leaf.options(name="a").bind()],
        {"x": (Leaf.options(name="b").bind(),)},
        Holder(Leaf.options(name="c").bind()),
        deep=Custom({"y": [Holder(Leaf.options(name="d").bind())]}),
    )
    code = code_of(app)["Node"]
    found = [
        code.init_args[0][0],
        code.init_args[1]["x"][0],
        code.init_args[2].inside,
        code.init_kwargs["deep"].inside["y"][0].inside,
    ]
    assert [one.deployment_name for one in found] == ["a", "b", "c", "d"]
    assert all(isinstance(one, DeploymentHandle) for one in found)
    assert calls(app)["Node"] == ["a", "b", "c", "d"]


def test_what_holds_no_application_stays_the_very_same():
    given = Custom([1, 2])
    assert code_of(Node.bind(given))["Node"].init_args[0] is given


def test_the_same_application_twice_is_one_deployment():
    leaf = Leaf.bind()
    app = Node.bind(leaf, again=[leaf])
    assert names(app) == ["Node", "Leaf"]
    code = code_of(app)["Node"]
    assert code.init_args[0] == code.init_kwargs["again"][0]


def test_others_of_one_name_are_renamed_with_a_warning(warned):
    app = Node.bind(Leaf.bind(), Leaf.bind(), Leaf.bind())
    assert names(app) == ["Node", "Leaf_2", "Leaf_1", "Leaf"]
    assert [line for line in warned() if "same name 'Leaf'" in line] == warned()
    assert len(warned()) == 2


def test_a_made_name_does_not_meet_a_given_one():
    app = Leaf.options(name="A").bind()
    given = Leaf.options(name="A_1").bind()
    top = Node.options(name="A").bind(app, given, Leaf.options(name="A").bind())
    assert sorted(names(top)) == ["A", "A_1", "A_2", "A_3"]
    assert names(top)[0] == "A_3", "callees have their names first, as in Ray"


def test_a_pickled_application_is_described_the_same():
    inner = Leaf.options(autoscaling_config={"max_replicas": 2}, logging_config={"encoding": "JSON"}).bind()
    app = Node.options(num_replicas="auto").bind([inner], again=inner)
    assert describe(cloudpickle.loads(cloudpickle.dumps(app))) == describe(app)


def test_an_application_in_itself_is_refused():
    inside = []
    app = Node.bind(inside)
    inside.append(app)
    with pytest.raises(ValueError, match="'Node' is made from itself"):
        describe(app)


def test_what_cannot_be_pickled_is_refused_with_the_deployment():
    with pytest.raises(TypeError, match="the deployment 'Node' is made from cannot be pickled"):
        describe(Node.bind(threading.Lock()))


@pytest.mark.parametrize("given", [None, "app", Leaf])
def test_only_applications_are_built(given):
    with pytest.raises(TypeError, match="expected an Application"):
        build(given)


def test_a_description_has_what_was_set_by_the_words_of_a_config_file():
    app = Node.options(
        name="node",
        num_replicas=2,
        ray_actor_options={"num_cpus": 2, "num_gpus": None, "runtime_env": {"env_vars": {"A": "b"}}},
        user_config={"k": [1]},
        max_ongoing_requests=7,
        max_queued_requests=-1,
        backpressure_config={"status_code": 429},
        graceful_shutdown_timeout_s=1,
        health_check_period_s=2,
        health_check_timeout_s=3,
        max_constructor_retry_count=4,
        tyndall={"preload": ["json"], "warm_processes": None},
        rolling_update_percentage=0.5,
        max_surge_percent=10,
        logging_config={"log_level": "debug"},
        max_replicas_per_node=3,
    ).bind()
    (one,) = describe(app, {"arg": 1})["deployments"]
    assert one == {
        "name": "node",
        "num_replicas": 2,
        "ray_actor_options": {"num_cpus": 2.0, "runtime_env": {"env_vars": {"A": "b"}}},
        "user_config": {"k": [1]},
        "max_ongoing_requests": 7,
        "max_queued_requests": -1,
        "backpressure_config": {"status_code": 429},
        "graceful_shutdown_timeout_s": 1.0,
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 3.0,
        "tyndall": {"preload": ["json"], "max_constructor_retry_count": 4},
        "rolling_update_percentage": 0.5,
        "max_surge_percent": 10,
        "logging_config": {"log_level": "DEBUG"},
        "max_replicas_per_node": 3,
        "init": {"args": {"arg": 1}, "init": None},
        "calls": [],
    }
    json.dumps(one)


def test_a_description_has_nothing_that_was_not_set():
    (one,) = describe(Leaf.bind())["deployments"]
    assert one == {"name": "Leaf", "init": {"args": {}, "init": None}, "calls": []}


@pytest.mark.parametrize(
    ("options", "described"),
    [
        ({"num_replicas": "auto"}, {"num_replicas": "auto"}),
        (
            {"num_replicas": "auto", "autoscaling_config": {"min_replicas": 3}},
            {"num_replicas": "auto", "autoscaling_config": {"min_replicas": 3}},
        ),
        (
            {"autoscaling_config": {"max_replicas": 3, "aggregation_function": "max"}},
            {"autoscaling_config": {"max_replicas": 3, "aggregation_function": "max"}},
        ),
        ({"autoscaling_config": {}}, {"autoscaling_config": {}}),
        (
            {"autoscaling_config": {"policy": {"policy_function": "tyndall.policies:queue_length"}}},
            {"autoscaling_config": {"policy": {"policy_function": "tyndall.policies:queue_length"}}},
        ),
        ({"num_replicas": None, "user_config": None, "ray_actor_options": None}, {}),
    ],
)
def test_a_description_of_counts(options, described):
    (one,) = describe(Leaf.options(**options).bind())["deployments"]
    assert {key: one[key] for key in one if key not in ("name", "init", "calls")} == described


def test_autoscaling_of_the_code_comes_before_a_later_number():
    app = Leaf.options(autoscaling_config={"max_replicas": 3}).options(num_replicas=2).bind()
    (one,) = describe(app)["deployments"]
    assert "num_replicas" not in one
    assert one["autoscaling_config"] == {"max_replicas": 3}


def test_built_has_all_that_a_server_is_told():
    built = build(
        Node.bind(Leaf.bind()),
        "app",
        route_prefix=None,
        args={"a": 1},
        logging_config={"encoding": "JSON"},
        external_scaler_enabled=True,
    )
    assert (built.name, built.route_prefix, built.ingress) == ("app", None, "Node")
    assert built.logging_config == {"encoding": "JSON"}
    assert built.external_scaler_enabled
    assert list(built.code) == ["Node", "Leaf"]
    (handle,) = built.code["Node"].init_args
    assert (handle.deployment_name, handle.app_name) == ("Leaf", "app")
    assert built.described["deployments"][1]["init"] == {"args": {"a": 1}, "init": None}


def test_user_config_of_a_function_is_refused():
    @serve.deployment(user_config={})
    def function():
        return None

    with pytest.raises(ValueError, match="'function': user_config is set, and a function has no reconfigure"):
        build(function.bind())


def test_one_deployment_is_the_ingress():
    class Web:
        pass

    setattr(Web, INGRESS, None)
    web = serve.deployment(Web)
    assert build(web.bind()).ingress == "Web"
    both = web.options(name="both")
    both.func_or_class.__init__ = lambda self, other: None
    with pytest.raises(RayServeException, match="both, Web"):
        build(both.bind(web.bind()))
