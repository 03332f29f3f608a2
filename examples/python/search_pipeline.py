"""Deployments that call each other by handles; each has replicas of its own and scales by itself.

Counts of letters stand in for embeddings of a model.

    tyndall run examples.python.search_pipeline:app
    curl -X POST http://localhost:8000/ -d '{"query": "sea", "documents": ["tea is hot", "whales sleep at sea"]}'
"""

import math
from collections import Counter

from starlette.requests import Request

from tyndall import serve
from tyndall.serve.handle import DeploymentHandle

Embedding = dict[str, float]


@serve.deployment
class Encoder:
    def encode(self, text: str) -> Embedding:
        counts = Counter(letter for letter in text.lower() if letter.isalpha())
        norm = math.sqrt(sum(count * count for count in counts.values())) or 1.0
        return {letter: count / norm for letter, count in counts.items()}


@serve.deployment
class Ranker:
    def rank(self, query: Embedding, documents: list[Embedding]) -> list[int]:
        """Places of the documents, the nearest first."""

        def likeness(place: int) -> float:
            return sum(weight * documents[place].get(letter, 0.0) for letter, weight in query.items())

        return sorted(range(len(documents)), key=likeness, reverse=True)


@serve.deployment
class SearchPipeline:
    def __init__(self, encoder: DeploymentHandle, ranker: DeploymentHandle) -> None:
        self.encoder = encoder
        self.ranker = ranker

    async def __call__(self, request: Request) -> list[str]:
        asked = await request.json()
        return await self.search(asked["query"], asked["documents"])

    async def search(self, query: str, documents: list[str]) -> list[str]:
        # All have begun before the first is awaited; the query's embedding goes on to the ranker without a stop here.
        of_query = self.encoder.encode.remote(query)
        begun = [self.encoder.encode.remote(document) for document in documents]
        embeddings = [await one for one in begun]
        return [documents[place] for place in await self.ranker.rank.remote(of_query, embeddings)]


app = SearchPipeline.bind(Encoder.bind(), Ranker.bind())
