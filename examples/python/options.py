"""Options of deployments: fixed replicas, what a replica needs, shares of a GPU, health and shutdown.

Needs of GPUs come from the environment, and are none without it, so that this also runs where there is no GPU.

    GPUS_PER_MODEL=0.5 tyndall run examples.python.options:app
    curl 'http://localhost:8000/?text=hello'
"""

import os

from starlette.requests import Request

from tyndall import serve
from tyndall.serve.handle import DeploymentHandle

GPUS = float(os.environ.get("GPUS_PER_MODEL", "0"))


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=5,
    ray_actor_options={"num_cpus": 0.1, "num_gpus": GPUS, "memory": 64 * 1024**2},
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=20,
)
class SmallModel:
    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def check_health(self) -> None:
        """Raises when the replica is to be replaced."""
        if not self.suffix:
            raise RuntimeError("the model is gone")

    def finish(self, text: str) -> str:
        return text + self.suffix


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Both:
    """Two models side by side; with 0.5 each they share a GPU."""

    def __init__(self, first: DeploymentHandle, second: DeploymentHandle) -> None:
        self.models = [first, second]

    async def __call__(self, request: Request) -> list[str]:
        return await self.ask(request.query_params.get("text", ""))

    async def ask(self, text: str) -> list[str]:
        begun = [model.finish.remote(text) for model in self.models]
        return [await one for one in begun]


app = Both.bind(SmallModel.bind("!"), SmallModel.options(name="AnotherSmallModel", num_replicas=1).bind("?"))
