"""What the process of autoscaling policies answers."""

import http.client
import json
import threading

import pytest

from tyndall import serve
from tyndall.serve import _controller, _policies
from tyndall.serve._policies import Policies, PolicyError, aggregated
from tyndall.serve.config import AutoscalingConfig
from tyndall.serve.context import DeploymentID, ReplicaID, TimeStampedValue

APP = "app"


def told(name="D", **given):
    """A context as the controller tells it."""
    return {
        "deployment_name": name,
        "current_num_replicas": 2,
        "target_num_replicas": 3,
        "running_replicas": ["D-1", "D-2"],
        "total_num_requests": 5.5,
        "total_queued_requests": 1.5,
        "raw_metrics": {"depth": {"D-1": [[10.0, 4.0], [18.0, 9.0]]}},
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 7,
        "policy_state": None,
        "last_scale_up_time": 3.0,
        "last_scale_down_time": None,
        "current_time": 20.0,
        "config": {
            "min_replicas": 1,
            "initial_replicas": None,
            "max_replicas": 7,
            "target_ongoing_requests": 4.0,
            "look_back_period_s": 12.0,
            "aggregation_function": "mean",
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 0.0,
            "downscale_to_zero_delay_s": 0.0,
            "upscaling_factor": 1.0,
            "downscaling_factor": 1.0,
            "policy": {"name": "ongoing_requests"},
            "python_policy": {"policy_function": "m:f"},
        },
        **given,
    }


def deployed(policy, kwargs=None):
    """The policies of an application whose deployment has this one."""
    options = {"policy": {"policy_function": policy, "policy_kwargs": kwargs or {}}, "max_replicas": 7}

    @serve.deployment(name="D", autoscaling_config=options)
    def answer():
        return 1

    policies = {"D": {"policy_function": f"{policy.__module__}:{policy.__qualname__}", "policy_kwargs": kwargs or {}}}
    return Policies(lambda _: answer.bind(), {"application": APP, "args": {}, "policy": None, "deployments": policies})


def test_a_policy_sees_what_the_controller_tells():
    seen = []

    def policy(ctx):
        seen.append(ctx)
        return 4, {"at": (1, 2), 3: "three"}

    policies = deployed(policy)
    answer = policies.decide({"deployment": "D", "contexts": [told()]})
    assert answer["decisions"] == {"D": 4.0}
    (ctx,) = seen
    replica = ReplicaID("D-1", DeploymentID("D", APP))
    assert (ctx.deployment_id, ctx.deployment_name, ctx.app_name) == (DeploymentID("D", APP), "D", APP)
    assert (ctx.current_num_replicas, ctx.target_num_replicas, ctx.running_replicas[0]) == (2, 3, replica)
    assert (ctx.total_num_requests, ctx.total_queued_requests, ctx.total_running_requests) == (5.5, 1.5, 4.0)
    assert ctx.raw_metrics == {"depth": {replica: [TimeStampedValue(10.0, 4.0), TimeStampedValue(18.0, 9.0)]}}
    assert ctx.aggregated_metrics == {"depth": {replica: 5.0}}
    assert (ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas) == (1, 7)
    assert (ctx.policy_state, ctx.last_scale_up_time, ctx.last_scale_down_time) == ({}, 3.0, None)
    assert (ctx.current_time, ctx.config.get_target_ongoing_requests(), ctx.config.max_replicas) == (20.0, 4.0, 7)
    # What it wants back it gets back as it was.
    policies.decide({"deployment": "D", "contexts": [told(policy_state=answer["states"]["D"])]})
    assert seen[1].policy_state == {"at": (1, 2), 3: "three"}


def test_a_class_is_made_once_with_its_arguments():
    class Limited:
        made = 0

        def __init__(self, limit):
            Limited.made += 1
            self.limit = limit

        def __call__(self, ctx):
            return min(self.limit, ctx.total_num_requests), None

    policies = deployed(Limited, {"limit": 3})
    for _ in range(2):
        assert policies.decide({"deployment": "D", "contexts": [told()]})["decisions"] == {"D": 3.0}
    assert Limited.made == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (3, "it returned 3 (int)\nreturn a number and a dict"),
        ((1, {}, 2), "it returned (1, {}, 2) (tuple)"),
        (("3", {}), "it asks for '3' (str) replicas\nreturn a finite number"),
        ((float("nan"), {}), "it asks for nan (float) replicas"),
        ((None, {}), "it asks for None (NoneType) replicas"),
        ((1, [2]), "its policy_state is [2] (list)\nreturn a dict"),
        ((1, {"lock": threading.Lock()}), "its policy_state cannot be pickled: "),
        ((1, {"much": "x" * (1 << 20)}), "bytes, and 1048576 may be kept"),
    ],
)
def test_what_is_no_answer_is_told(answer, message):
    with pytest.raises(PolicyError) as raised:
        deployed(lambda ctx: answer).decide({"deployment": "D", "contexts": [told()]})
    assert message in str(raised.value)


def all_of_them(contexts):
    assert {of.name for of in contexts} == {"D", "E"}
    return {of: 2 * ctx.current_num_replicas for of, ctx in contexts.items() if of.name == "E"}, None


def wrong(contexts):
    return {DeploymentID("F", APP): 1}, {}


def by_name(contexts):
    return {"D": 1}, {}


def of_application(path):
    policy = {"policy_function": path, "policy_kwargs": {}}
    app = serve.deployment(lambda: 1, name="D").bind()
    return Policies(lambda _: app, {"application": APP, "args": {}, "policy": policy, "deployments": {}})


def test_a_policy_of_the_application_sees_all_deployments():
    question = {"contexts": [told(), told("E", current_num_replicas=3)]}
    answer = of_application(f"{__name__}:all_of_them").decide(question)
    assert answer == {"decisions": {"E": 6.0}, "states": {}}
    for path in ("wrong", "by_name"):
        with pytest.raises(PolicyError, match="which it was not asked about\nthere are Deployment"):
            of_application(f"{__name__}:{path}").decide(question)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        of_application("no_such_module:policy")
    with pytest.raises(TypeError, match="is str\nname a function"):
        of_application(f"{__name__}:APP")


def test_metrics_are_aggregated_as_requests_are():
    points = [TimeStampedValue(0.0, 1.0), TimeStampedValue(6.0, 3.0), TimeStampedValue(8.0, 0.0)]
    for function, expected in [("mean", 1.2), ("max", 3.0), ("min", 0.0)]:
        assert aggregated(points, 10.0, AutoscalingConfig(aggregation_function=function)) == expected
    assert aggregated(points[:1], 0.0, AutoscalingConfig()) == 1.0


def test_the_socket_answers_and_tells_of_failures(tmp_path):
    def policy(ctx):
        if ctx.current_num_replicas == 2:
            raise RuntimeError("no such queue\nmend it")
        return 1, {}

    path = tmp_path / "policies.sock"
    with _policies._Server(str(path), deployed(policy)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = _controller.UnixConnection(path, timeout_s=10)

        def ask(where, **given):
            connection.request("POST", where, json.dumps({"deployment": "D", "contexts": [told(**given)]}))
            response = connection.getresponse()
            assert isinstance(response, http.client.HTTPResponse)
            return response.status, response.read().decode()

        status, said = ask("/-/decide", current_num_replicas=1)
        assert (status, json.loads(said)["decisions"]) == (200, {"D": 1.0})
        status, said = ask("/-/decide")
        assert status == 422
        assert said.startswith(f"RuntimeError: no such queue; mend it ({__file__}, line ")
        assert ask("/-/else")[0] == 404
        connection.close()
        server.shutdown()
