"""Autoscaling policies in Python: what they decide, and what happens when they do not."""

import json
import os
import signal
import subprocess
import textwrap
from pathlib import Path

import httpx
import pytest
from servers import details, processes, until

from tyndall import serve
from tyndall.serve import _admin, _server

AT_ONCE = {"min_replicas": 0, "max_replicas": 6, "upscale_delay_s": 0, "downscale_delay_s": 0}


def until_running(name, deployment, number):
    def is_so():
        one = details(name)["deployments"][deployment]
        running = [replica for replica in one["replicas"] if replica["state"] == "RUNNING"]
        return one["target_num_replicas"] == len(running) == number

    until(is_so, f"{number} replicas of {deployment}")


def scaled_by(path, **options):
    """A deployment with as many replicas as a file says, which only this function knows."""

    def policy(ctx):
        return int(path.read_text()), {}

    @serve.deployment(name="Scaled", autoscaling_config={**AT_ONCE, "policy": {"policy_function": policy}}, **options)
    def scaled():
        return os.getpid()

    return scaled.bind()


def test_a_policy_decides_by_what_only_it_can_see(deploy, tmp_path):
    wanted = tmp_path / "wanted"
    wanted.write_text("0")
    client, _ = deploy(scaled_by(wanted), name="seen")
    (process,) = processes("policies", "seen")
    until_running("seen", "Scaled", 0)
    wanted.write_text("2")
    until_running("seen", "Scaled", 2)
    wanted.write_text("99")
    until_running("seen", "Scaled", 6)
    wanted.write_text("0")
    until_running("seen", "Scaled", 0)
    # The first request waits for no policy.
    assert client.get("/").json() > 0
    assert processes("policies", "seen") == [process]
    serve.delete("seen")
    until(lambda: not processes("policies", "seen"), "the process goes with its application")


def test_a_policy_that_raises_keeps_the_target_and_heals(deploy, tmp_path):
    wanted = tmp_path / "wanted"
    wanted.write_text("2")
    deploy(scaled_by(wanted), name="heals")
    until_running("heals", "Scaled", 2)
    wanted.write_text("many")

    def message():
        return details("heals")["deployments"]["Scaled"]["message"]

    shown = until(lambda: "policy" in message() and message(), "the reason is shown")
    assert "its autoscaling policy failed, and the last target stays: ValueError: invalid literal" in shown
    assert ", line " in shown
    assert details("heals")["status"] == "RUNNING"
    until_running("heals", "Scaled", 2)
    wanted.write_text("1")
    until_running("heals", "Scaled", 1)
    assert "policy" not in message()


def test_a_class_has_its_arguments_and_state_outlives_its_process(deploy, tmp_path):
    log = tmp_path / "log"

    class Remembering:
        def __init__(self, replicas):
            self.replicas = replicas

        def __call__(self, ctx):
            pids = ctx.policy_state.get("pids", ())
            if os.getpid() not in pids:
                pids = (*pids, os.getpid())
            log.write_text(json.dumps(pids))
            # One that has begun anew does not know of the process before.
            return self.replicas * len(pids), {"pids": pids}

    policy = {"policy_function": Remembering, "policy_kwargs": {"replicas": 2}}
    app = serve.deployment(name="Scaled", autoscaling_config={**AT_ONCE, "policy": policy})(lambda: 1).bind()
    deploy(app, name="remembers")
    until_running("remembers", "Scaled", 2)
    (first,) = processes("policies", "remembers")
    os.kill(first, signal.SIGKILL)
    until_running("remembers", "Scaled", 4)
    (second,) = processes("policies", "remembers")
    assert json.loads(log.read_text()) == [first, second]
    assert details("remembers")["message"] == ""


def test_replicas_tell_policies_of_themselves(deploy, tmp_path):
    depth = tmp_path / "depth"
    depth.write_text("1")

    def by_depth(ctx):
        depths = ctx.aggregated_metrics.get("depth", {})
        assert set(depths) <= set(ctx.running_replicas)
        return max(depths.values(), default=1), {}

    @serve.deployment(
        name="Scaled",
        autoscaling_config={
            **AT_ONCE,
            "min_replicas": 1,
            "look_back_period_s": 1,
            "aggregation_function": "max",
            "policy": {"policy_function": by_depth},
        },
    )
    class Queue:
        def record_autoscaling_stats(self):
            return {"depth": int(depth.read_text())}

        def __call__(self):
            return 1

    deploy(Queue.bind(), name="depths")
    until_running("depths", "Scaled", 1)
    depth.write_text("3")
    until_running("depths", "Scaled", 3)
    depth.write_text("2")
    until_running("depths", "Scaled", 2)


def test_a_policy_that_cannot_be_had_is_refused_before_anything_is_sent(server):
    scaling = {"policy": {"policy_function": "no_such_module:policy"}}
    app = serve.deployment(autoscaling_config=scaling)(lambda: 1).options(name="D").bind()
    with pytest.raises(ValueError, match="deployment 'D': the autoscaling policy 'no_such_module:policy' cannot be"):
        serve.run(app, name="refused")


# --- From files -------------------------------------------------------------------------------------------------------

CODE = """
    from tyndall import serve


    @serve.deployment
    class Front:
        def __init__(self, back):
            self.back = back

        async def __call__(self):
            return await self.back.remote()


    @serve.deployment
    def back():
        return "back"


    app = Front.bind(back.bind())
"""

POLICIES = """
    import json
    from pathlib import Path

    FILE = Path(__file__).with_name("wanted.json")


    def one(ctx):
        return json.loads(FILE.read_text())[ctx.deployment_name], {}


    class All:
        def __init__(self, most):
            self.most = most

        def __call__(self, contexts):
            wanted = json.loads(FILE.read_text())
            left = self.most
            decisions = {}
            for of, ctx in contexts.items():
                if of.name in wanted:
                    decisions[of] = min(wanted[of.name], left)
                    left -= decisions[of]
            return decisions, {of: {"left": left} for of in contexts}
"""


@pytest.fixture
def project(tmp_path, server):
    """A folder with an application and its policies, whose modules are this test's alone."""
    end = tmp_path.name.replace("-", "_")
    (tmp_path / f"code_{end}.py").write_text(textwrap.dedent(CODE))
    (tmp_path / f"policies_{end}.py").write_text(textwrap.dedent(POLICIES))
    (tmp_path / "wanted.json").write_text("{}")
    yield tmp_path, end
    _tyndall("deploy", _config(tmp_path / "none.json"))


def _tyndall(*words):
    command = [_server.binary(), *map(str, words), "--address", _admin.address()]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _config(path, *applications):
    path.write_text(json.dumps({"applications": applications}))
    return path


def _application(folder, end, **given):
    return {
        "name": "shared",
        "route_prefix": "/shared",
        "import_path": f"code_{end}:app",
        "runtime_env": {"working_dir": str(folder)},
        **given,
    }


def test_a_config_file_names_the_policy_of_an_application(project, server):
    folder, end = project
    policy = {"policy_function": f"policies_{end}:All", "policy_kwargs": {"most": 4}}
    deployments = [{"name": name, "autoscaling_config": AT_ONCE} for name in ("Front", "back")]
    application = _application(folder, end, autoscaling_policy=policy, deployments=deployments)
    deployed = _tyndall("deploy", _config(folder / "config.json", application))
    assert deployed.returncode == 0, deployed.stderr
    until(lambda: details("shared")["status"] == "RUNNING", "it runs")
    (folder / "wanted.json").write_text(json.dumps({"Front": 1, "back": 2}))
    until_running("shared", "Front", 1)
    until_running("shared", "back", 2)
    # They share four; what the policy leaves out keeps its target.
    (folder / "wanted.json").write_text(json.dumps({"Front": 3, "back": 9}))
    until_running("shared", "Front", 3)
    until_running("shared", "back", 1)
    (folder / "wanted.json").write_text(json.dumps({"back": 2}))
    until_running("shared", "back", 2)
    until_running("shared", "Front", 3)
    assert httpx.get(f"{server[1]}/shared", timeout=60).text == "back"
    (folder / "wanted.json").write_text("broken")
    shown = until(lambda: details("shared")["message"], "the reason is shown")
    assert "its autoscaling policy failed, and the last target stays: JSONDecodeError" in shown
    _tyndall("deploy", _config(folder / "none.json"))
    until(lambda: not processes("policies", "shared"), "the process goes with its application")


def test_a_config_file_names_the_policy_of_a_deployment(project, server):
    folder, end = project
    scaling = {**AT_ONCE, "policy": {"policy_function": f"policies_{end}:one"}}
    (folder / "wanted.json").write_text(json.dumps({"back": 2}))
    place = {"name": "single", "route_prefix": "/single"}
    deployments = [{"name": "back", "autoscaling_config": scaling}]
    application = _application(folder, end, **place, deployments=deployments)
    _tyndall("deploy", _config(folder / "config.json", application))
    until(lambda: details("single")["deployments"], "it is built")
    until_running("single", "back", 2)
    until_running("single", "Front", 1)
    (process,) = processes("policies", "single")
    # One that is not there is told, and what runs goes on.
    scaling["policy"]["policy_function"] = f"policies_{end}:missing"
    application["deployments"][0]["autoscaling_config"] = scaling
    _tyndall("deploy", _config(folder / "config.json", application))
    until(lambda: details("single")["status"] == "DEPLOY_FAILED", "the build fails")
    assert f"'policies_{end}:missing' cannot be imported" in details("single")["message"]
    assert processes("policies", "single") == [process]
