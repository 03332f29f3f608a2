"""Replicas that come and go with the requests, down to none.

    tyndall run examples.python.autoscaled:app
    curl -X POST http://localhost:8000/ -d '20'
"""

from starlette.requests import Request

from tyndall import serve


@serve.deployment(
    num_replicas="auto",
    autoscaling_config={
        "target_ongoing_requests": 2,
        "min_replicas": 0,
        "max_replicas": 4,
        "initial_replicas": 0,
        "upscale_delay_s": 1,
        "downscale_delay_s": 60,
    },
    # About twice the target: what is above waits for a new replica, or for a place.
    max_ongoing_requests=5,
    ray_actor_options={"num_cpus": 0.1},
)
class Fibonacci:
    async def __call__(self, request: Request) -> int:
        return self.of(int(await request.body()))

    def of(self, n: int) -> int:
        before, now = 0, 1
        for _ in range(n):
            before, now = now, before + now
        return before


app = Fibonacci.bind()
