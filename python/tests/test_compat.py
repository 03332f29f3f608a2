"""`ray` is Tyndall: each test runs a program of its own, as the names hold for a whole process."""

import os
import subprocess
import sys
import textwrap

import pytest


def python(*args, **env):
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )


def said(code, **env):
    """What a program prints that begins with compat."""
    program = "from tyndall import compat\ncompat.install()\n" + textwrap.dedent(code)
    done = python("-W", "error", "-c", program, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_modules_and_classes_are_the_same_by_either_name():
    assert said("""
        import ray
        import ray.serve.config, ray.serve.schema, ray.serve.exceptions, ray.serve.context, ray.serve.metrics
        import ray.serve.batching, ray.serve.multiplex, ray.serve.api, ray.util.metrics
        from ray import serve
        from ray.serve.handle import DeploymentHandle, DeploymentResponse
        from ray.serve.deployment import Application
        import tyndall.serve
        import tyndall.serve.handle
        import tyndall.serve.llm
        from ray.serve.llm import LLMConfig
        from ray.serve.llm.deployment import LLMServer
        assert serve is tyndall.serve is ray.serve
        assert DeploymentHandle is tyndall.serve.handle.DeploymentHandle
        assert DeploymentResponse is tyndall.serve.handle.DeploymentResponse
        assert Application is serve.Application
        assert ray.util.metrics.Counter is serve.metrics.Counter
        assert LLMConfig is tyndall.serve.llm.LLMConfig
        from ray.serve._private.common import DeploymentID, ReplicaID
        from tyndall.serve import context
        assert (DeploymentID, ReplicaID) == (context.DeploymentID, context.ReplicaID)
        assert LLMServer is tyndall.serve.llm.LLMServer
        from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
        from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter
        from ray.serve._private.request_router.request_router import FIFOMixin
        from tyndall.serve import request_router
        assert RequestRouter is request_router.RequestRouter and FIFOMixin is request_router.FIFOMixin
        assert PowerOfTwoChoicesRequestRouter is request_router.PowerOfTwoChoicesRequestRouter
        assert tyndall.serve.__spec__.name == "tyndall.serve"
        print(ray.__version__)
    """) == ["2.60.0"]


def test_the_decorator_stays_what_it_is_when_its_module_is_imported():
    assert said("""
        import ray.serve.deployment
        from ray import serve

        @serve.deployment
        class D:
            pass

        print(D.name)
    """) == ["D"]


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        ("import ray.data", "ImportError", "ray.data is not there"),
        ("from ray import data", "ImportError", "ray.data is not there"),
        ("from ray.train import Trainer", "ImportError", "ray.train is not there"),
        ("import ray.serve._private.api", "ImportError", "ray.serve._private.api is not there"),
        ("from ray.util import ActorPool", "ImportError", "ray.util.ActorPool is not there"),
        ("import ray; ray.nodes()", "AttributeError", "ray.nodes is not there"),
        ("import ray; ray.remote(print)", "NotImplementedError", "ray.remote is not there"),
        ("import ray; ray.remote(num_cpus=1)", "NotImplementedError", "ray.remote is not there"),
        ("import ray; ray.get(1)", "TypeError", "ray.get() got a int"),
        ("import ray; ray.init(); ray.init()", "RuntimeError", "ray.init() was called before"),
        ("import ray; ray.put(ray.put(1))", "TypeError", "takes no ObjectRef"),
    ],
)
def test_what_is_absent_is_refused_with_cause_and_cure(code, kind, cause):
    lines = said(f"""
        try:
            exec({code!r})
        except Exception as error:
            first, second = str(error).splitlines()
            print(type(error).__name__, first, second, sep="|")
    """)
    got_kind, got_cause, cure = " ".join(lines).split("|")
    assert got_kind == kind
    assert cause in got_cause
    assert cure


def test_task_consumers_of_ray_are_those_here():
    assert said("""
        from ray import serve
        from ray.serve.async_inference_autoscaling_policy import AsyncInferenceAutoscalingPolicy
        from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
        from ray.serve.schema import CeleryAdapterConfig, TaskProcessorAdapter, TaskProcessorConfig, TaskResult
        from ray.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler
        from ray.serve.task_processor import CeleryTaskProcessorAdapter
        from ray.serve.taskiq_task_processor import TaskiqAdapterConfig, TaskiqTaskProcessorAdapter
        import tyndall.serve.schema, tyndall.serve.task_processor

        assert TaskProcessorAdapter is tyndall.serve.schema.TaskProcessorAdapter
        celery = CeleryAdapterConfig(broker_url="memory://", backend_url="cache+memory://")
        config = TaskProcessorConfig(queue_name="q", adapter_config=celery)
        assert type(instantiate_adapter_from_config(config)) is CeleryTaskProcessorAdapter
        policy = AutoscalingPolicy(
            policy_function=AsyncInferenceAutoscalingPolicy,
            policy_kwargs={"broker_url": "redis://localhost", "queue_name": "q"},
        )

        @serve.deployment(autoscaling_config=AutoscalingConfig(policy=policy))
        @task_consumer(task_processor_config=config)
        class Consumer:
            @task_handler
            def task(self):
                pass

        print(Consumer.bind())
    """) == ["Application(name='Consumer')"]


def test_libraries_may_ask_whether_there_is_more_of_ray():
    assert said("""
        import importlib.util
        import ray
        assert importlib.util.find_spec("ray") is not None
        assert not hasattr(ray, "data")
        try:
            import ray.tune
        except ImportError as error:
            print(error.name)
    """) == ["ray.tune"]


def test_responses_and_values_are_got():
    assert said("""
        import asyncio
        import ray
        from ray import serve

        @serve.deployment
        class Double:
            def __call__(self, x):
                return 2 * x

        with ray.init(ignore_reinit_error=True):
            handle = serve.run(Double.bind(), _local_testing_mode=True)
            assert ray.is_initialized()
            assert ray.get(handle.remote(2), timeout=60) == 4
            assert ray.get([handle.remote(x) for x in (1, 2)]) == [2, 4]
            value = [1]
            ref = ray.put(value)
            value.append(2)
            assert ray.get(ref) == [1]
            assert ray.get([ref, handle.remote(3)]) == [[1], 6]

            async def awaited():
                return await ref

            assert asyncio.run(awaited()) == [1]
        print(ray.is_initialized())
    """, RAY_SERVE_FORCE_LOCAL_TESTING_MODE="1") == ["False"]  # fmt: skip


def test_ray_that_was_imported_before_is_told():
    code = """
import sys, types
sys.modules["ray"] = types.ModuleType("ray")
from tyndall import compat
try:
    compat.install()
except RuntimeError as error:
    print(error)
compat.install_for_application()
print(compat.is_installed())
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    cause, cure, installed = done.stdout.splitlines()
    assert "ray was imported before" in cause
    assert "python -m tyndall.compat" in cure
    assert installed == "False"


def test_scripts_and_modules_run_with_their_arguments(tmp_path):
    (tmp_path / "beside.py").write_text("WORD = 'found'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport beside\nfrom ray import serve\n"
        "if __name__ == '__main__':\n    print(sys.argv[1:], serve.__name__, beside.WORD)\n"
    )
    done = python("-m", "tyndall.compat", str(script), "a", "--b")
    assert done.stdout.strip() == "['a', '--b'] tyndall.serve found", done.stderr
    done = python("-m", "tyndall.compat", "-m", "script", "c", PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}")
    assert done.stdout.strip() == "['c'] tyndall.serve found", done.stderr
    done = python("-m", "tyndall.compat", str(tmp_path / "none.py"))
    assert done.returncode == 2
    assert "there is no script" in done.stderr


def test_an_application_for_ray_is_described_as_it_is(tmp_path):
    (tmp_path / "app.py").write_text(
        "import ray\nfrom ray import serve\nfrom ray.serve.handle import DeploymentHandle\n\n\n"
        "@serve.deployment(num_replicas=2)\nclass Inner:\n    pass\n\n\n"
        "@serve.deployment\nclass Outer:\n    def __init__(self, inner: DeploymentHandle):\n        pass\n\n\n"
        "app = Outer.bind(Inner.bind())\n"
    )
    source = ["-m", "tyndall._program", "--import-path", "app:app", "--path", str(tmp_path)]
    done = python(*source, "role", "describe")
    assert done.returncode == 0, done.stdout
    assert '"ingress": "Outer"' in done.stdout
    assert '"name": "Inner"' in done.stdout
    # The environment of an application can leave `ray` to Ray, which is not ours to import here.
    shadow = tmp_path / "ray.py"
    shadow.write_text("raise ImportError('this is Ray itself')\n")
    done = python(*source, "role", "describe", TYNDALL_COMPAT="0")
    assert "this is Ray itself" in done.stdout
