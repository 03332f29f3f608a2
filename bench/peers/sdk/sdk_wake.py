"""The deployment of sdk.py that goes when nobody asks, and imports torch when it comes back."""

import os

from sdk_noop import serve

SCALING = {
    "min_replicas": 0,
    "max_replicas": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0.5,
    "look_back_period_s": 1,
    "metrics_interval_s": 0.5,
}
# Ray has no such option.
OWN = {} if os.environ.get("SDK") == "ray" else {"tyndall": {"preload": ["torch"]}}


@serve.deployment(autoscaling_config=SCALING, **OWN)
class Wake:
    def __init__(self):
        import torch

        self.torch = torch

    async def __call__(self, request) -> str:
        assert float(self.torch.ones(2).sum()) == 2
        return str(os.getpid())


wake = Wake.bind()
