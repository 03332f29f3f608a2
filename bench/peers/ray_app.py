"""A plain Ray Serve deployment of a causal model, scaled between zero and some replicas by load.

`serve run ray_app:app`; MODEL_ID, MIN_REPLICAS, MAX_REPLICAS, TARGET_ONGOING_REQUESTS and
NUM_CPUS_PER_REPLICA have the meaning that they have for `tyndall run`; TORCH_THREADS and TORCH_DTYPE are
those of a replica.
"""

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

routes = FastAPI()


class Request(BaseModel):
    """Body of `/generate`."""

    prompt: str
    generation_kwargs: dict[str, Any] = {}


@serve.deployment(
    ray_actor_options={"num_cpus": float(os.environ.get("NUM_CPUS_PER_REPLICA", "1"))},
    max_ongoing_requests=64,
    autoscaling_config={
        "min_replicas": int(os.environ.get("MIN_REPLICAS", "0")),
        "initial_replicas": int(os.environ.get("MIN_REPLICAS", "0")),
        "max_replicas": int(os.environ.get("MAX_REPLICAS", "1")),
        "target_ongoing_requests": float(os.environ.get("TARGET_ONGOING_REQUESTS", "64")),
    },
)
@serve.ingress(routes)
class CausalModel:
    """One replica: tokenizer and model of transformers."""

    def __init__(self, name: str, threads: int, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        kinds = {"bf16": torch.bfloat16, "f32": torch.float32}
        self.name = name
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModelForCausalLM.from_pretrained(name, dtype=kinds[dtype]).eval()

    @routes.get("/healthz")
    async def healthz(self) -> dict:
        """Answers as soon as a replica runs."""
        return {"model": self.name}

    @routes.post("/generate")
    def generate(self, request: Request) -> dict:
        """One completion; FastAPI runs requests side by side on its threads."""
        import torch

        inputs = self.tokenizer(request.prompt, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            output = self.model.generate(**inputs, **request.generation_kwargs)
        made = output[0, inputs["input_ids"].shape[1] :]
        return {"completion": self.tokenizer.decode(made), "completion_tokens": len(made)}


# Replicas import this file with the environment of the cluster, not that of `serve run`: what they need is bound
# by the latter, and the values that they would bind themselves are not used.
app = CausalModel.bind(
    os.environ.get("MODEL_ID", ""),
    int(os.environ.get("TORCH_THREADS", "1")),
    os.environ.get("TORCH_DTYPE", "bf16"),
)
