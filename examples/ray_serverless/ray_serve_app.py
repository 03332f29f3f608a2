"""Text generation with a model of Hugging Face in plain Ray Serve: no replica while nobody asks.

It imports nothing of Tyndall and is served as it is: `tyndall run examples/ray_serverless/ray_serve_app:deployment_graph`.
Answers `GET /healthz` and `POST /generate`; the variables that it reads are in README.md.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from ray import serve

MODEL_ID = os.environ.get("MODEL_ID", "facebook/opt-125m")
DEFAULTS: dict[str, Any] = {
    "max_new_tokens": int(os.environ.get("MAX_NEW_TOKENS", "256")),
    "temperature": float(os.environ.get("TEMPERATURE", "0.7")),
    "top_p": float(os.environ.get("TOP_P", "0.9")),
}

api = FastAPI(title="Text generation", version="1.0")


class GenerateRequest(BaseModel):
    """One prompt or several, and what is laid over the defaults of sampling."""

    prompt: str | None = None
    prompts: list[str] | None = None
    generation_kwargs: dict[str, Any] = Field(default_factory=dict)

    def all(self) -> list[str]:
        return [*([self.prompt] if self.prompt is not None else []), *(self.prompts or [])]


class GenerateResponse(BaseModel):
    model: str
    prompts: list[str]
    completions: list[str]
    generation_kwargs: dict[str, Any]


@serve.deployment(
    name="RayServeLLM",
    ray_actor_options={
        "num_cpus": float(os.environ.get("NUM_CPUS_PER_REPLICA", "1.0")),
        "num_gpus": float(os.environ.get("NUM_GPUS_PER_REPLICA", "0.0")),
    },
    autoscaling_config={
        "min_replicas": int(os.environ.get("MIN_REPLICAS", "0")),
        "max_replicas": int(os.environ.get("MAX_REPLICAS", "2")),
        "target_ongoing_requests": float(os.environ.get("TARGET_ONGOING_REQUESTS", "1.0")),
        "downscale_delay_s": float(os.environ.get("RAY_SERVE_AUTOSCALER_IDLE_TIMEOUT_S", "60")),
    },
)
@serve.ingress(api)
class RayServeLLM:
    """Holds the model; a replica is ready when it is loaded."""

    def __init__(self, model_id: str) -> None:
        # Here and not above: whoever only asks what there is needs no model library.
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model_id = model_id
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(model_id, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(model_id).to(self.device).eval()

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        return {"status": "ok", "model": self.model_id}

    @api.post("/generate")
    async def generate(self, request: GenerateRequest) -> GenerateResponse:
        prompts = request.all()
        if not prompts:
            raise HTTPException(status_code=400, detail="the request has neither 'prompt' nor 'prompts'")
        kwargs = {**DEFAULTS, **request.generation_kwargs}
        # The event loop stays free for other requests, such as those for the health.
        completions = await asyncio.to_thread(self._complete, prompts, kwargs)
        return GenerateResponse(
            model=self.model_id, prompts=prompts, completions=completions, generation_kwargs=kwargs
        )

    def _complete(self, prompts: list[str], kwargs: dict[str, Any]) -> list[str]:
        sampling = dict(kwargs)
        if not sampling.get("temperature"):
            # Without a temperature the likeliest token is taken, and there is nothing to draw.
            sampling.pop("temperature", None)
            sampling.pop("top_p", None)
            sampling["do_sample"] = False
        else:
            sampling.setdefault("do_sample", True)
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True).to(self.device)
        outputs = self.model.generate(**inputs, pad_token_id=self.tokenizer.pad_token_id, **sampling)
        num_read = inputs["input_ids"].shape[1]
        return self.tokenizer.batch_decode(outputs[:, num_read:], skip_special_tokens=True)


deployment_graph = RayServeLLM.bind(MODEL_ID)
