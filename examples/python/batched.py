"""Requests that are worked on together, by their number or by what they weigh.

    tyndall run examples.python.batched:app
    curl -X POST http://localhost:8000/ -d '"three words here"'
"""

from starlette.requests import Request

from tyndall import serve


def num_tokens(texts: list[str]) -> int:
    return sum(len(text.split()) for text in texts)


# As many requests at a time as a batch holds: with fewer it would wait in vain.
@serve.deployment(max_ongoing_requests=64)
class Batched:
    async def __call__(self, request: Request) -> dict:
        return await self.predict(await request.json())

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.02)
    async def predict(self, texts: list[str]) -> list[dict]:
        """One call for all of them, as a model would be called; as many results as texts, in their order."""
        return [{"length": len(text), "batch_size": len(texts)} for text in texts]

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.02, batch_size_fn=num_tokens)
    async def predict_tokens(self, texts: list[str]) -> list[dict]:
        """Batches of at most 8 tokens, however many texts these are."""
        return [{"tokens": num_tokens([text]), "batch_tokens": num_tokens(texts)} for text in texts]


app = Batched.bind()
