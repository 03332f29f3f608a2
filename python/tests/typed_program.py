"""A program as somebody writes it who has all of it checked: mypy and pyright read it in their strict modes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from tyndall import serve
from tyndall.serve import metrics
from tyndall.serve.config import AutoscalingConfig, HTTPOptions
from tyndall.serve.exceptions import BackPressureError
from tyndall.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator
from tyndall.serve.schema import LoggingConfig

seen = metrics.Counter("typed_seen", description="items", tag_keys=("kind",))


@serve.deployment
def double(x: int) -> int:
    return 2 * x


class Squares:
    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.01)
    async def square(self, xs: list[int]) -> list[int]:
        return [x * x for x in xs]

    @serve.batch
    async def negative(self, xs: list[int]) -> list[int]:
        return [-x for x in xs]

    @serve.batch(max_batch_size=4)
    async def steps(self, xs: list[int]) -> AsyncIterator[list[int | type[StopIteration]]]:
        for step in range(max(xs)):
            yield [step if step < x else StopIteration for x in xs]

    def resize(self, size: int) -> None:
        self.square.set_max_batch_size(size)

    async def both(self, x: int) -> int:
        # Calls are of single values.
        return await self.square(x) + await self.negative(x)

    async def __call__(self, x: int) -> int:
        return await self.both(x)

    async def count(self, to: int) -> AsyncIterator[int]:
        async for step in self.steps(to):
            yield step


class Models:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> dict[str, int]:
        return {model_id: len(model_id)}

    @serve.multiplexed
    async def other(self, model_id: str) -> str:
        return model_id.upper()

    async def __call__(self) -> int:
        model_id = serve.get_multiplexed_model_id()
        return (await self.model(model_id))[model_id] + len(await self.other(model_id))


class Front:
    def __init__(self, squares: DeploymentHandle[Squares], doubler: DeploymentHandle[object], word: str = "") -> None:
        self.squares, self.doubler, self.word = squares, doubler, word
        self.factor = 1

    def reconfigure(self, config: dict[str, int]) -> None:
        self.factor = config["factor"]

    async def __call__(self, request: Request) -> StreamingResponse | dict[str, int]:
        seen.inc(tags={"kind": request.method})
        if "stream" in request.query_params:
            return StreamingResponse(self.lines())
        response: DeploymentResponse[int] = self.squares.remote(self.doubler.remote(3))
        try:
            return {"answer": self.factor * await response}
        except BackPressureError as error:
            return {"retry_after": int(error.retry_after or 1)}

    async def lines(self) -> AsyncIterator[str]:
        items: DeploymentResponseGenerator[int] = self.squares.options(stream=True).count.remote(3)
        async for item in items:
            yield f"{item}\n"


# mypy takes a decorated class for the class itself, so the decorators are called.
squares = serve.deployment(num_replicas=2, logging_config=LoggingConfig(encoding="JSON"))(Squares)
models = serve.deployment(autoscaling_config=AutoscalingConfig(min_replicas=0, max_replicas=2))(Models)
front = serve.deployment(ray_actor_options={"num_cpus": 0.5}, user_config={"factor": 2})(Front)


def build(args: dict[str, str]) -> serve.Application:
    return front.options(num_replicas=1).bind(squares.bind(), double.bind(), word=args["word"])


def main() -> int:
    serve.start(http_options=HTTPOptions(port=0))
    handle: DeploymentHandle[Front] = serve.run(build({"word": "typed"}), name="typed", route_prefix="/typed")
    response: DeploymentResponse[int] = handle.lines.remote()
    value: int = response.result(timeout_s=5)
    told: list[Any] = handle.broadcast("reconfigure", {"factor": 3}).results(timeout_s=5, return_exceptions=True)
    status: str = serve.status().applications["typed"].status
    serve.delete("typed")
    return value + len(status) + len(told)


async def chosen(handle: DeploymentHandle[Front]) -> int:
    async with handle.lines.choose_replica() as selection:
        response: DeploymentResponse[int] = handle.dispatch(selection)
        return await response + len(selection.replica_id)
