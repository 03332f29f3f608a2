"""A class that answers HTTP: it gets the request and returns what becomes JSON.

A list of words stands in for the model, so that this runs anywhere; load a model in `__init__` instead.

    tyndall run examples.python.text_classifier:app --route-prefix /classify
    curl -X POST http://localhost:8000/classify -d '{"text": "what a lovely day"}'
"""

from starlette.requests import Request

from tyndall import serve

WORDS = {"lovely": 1, "good": 1, "great": 1, "bad": -1, "awful": -1}


@serve.deployment(num_replicas=2)
class TextClassifier:
    def __init__(self) -> None:
        self.weights = dict(WORDS)

    async def __call__(self, request: Request) -> dict:
        text = (await request.json())["text"]
        score = sum(self.weights.get(word, 0) for word in text.lower().split())
        return {"label": "NEGATIVE" if score < 0 else "POSITIVE", "score": score}


app = TextClassifier.bind()

if __name__ == "__main__":
    serve.run(app, route_prefix="/classify", blocking=True)
