"""Routes of FastAPI as methods of a deployment, with its checks of what comes in.

A stand-in repeats the prompt where a model would go on with it.

    tyndall run examples.python.fastapi_service:app
    curl -X POST 'http://localhost:8000/generate?prompt=hello&max_tokens=3'
"""

from itertools import cycle, islice

from fastapi import FastAPI

from tyndall import serve

api = FastAPI()


class Echo:
    def generate(self, prompt: str, max_tokens: int) -> str:
        return " ".join(islice(cycle(prompt.split() or [""]), max_tokens))


@serve.deployment(ray_actor_options={"num_cpus": 0.5})
@serve.ingress(api)
class LLMService:
    def __init__(self) -> None:
        self.model = Echo()

    @api.post("/generate")
    async def generate(self, prompt: str, max_tokens: int = 16) -> dict:
        return {"text": self.model.generate(prompt, max_tokens)}

    @api.get("/health")
    async def health(self) -> dict:
        return {"status": "ok"}


app = LLMService.bind()
