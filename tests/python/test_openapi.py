"""The document at /openapi.json against the server: schemathesis sends what it allows and what it forbids.

More than the few examples of every day: `OPENAPI_EXAMPLES=300`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serving import serving

SETTINGS = Path(__file__).parent / "openapi"
EXAMPLES = os.environ.get("OPENAPI_EXAMPLES", "5")


def run(url: str, folder: Path, *arguments: str) -> dict[str, list[int]]:
    """Fails where schemathesis finds anything at all; tells how many fitting bodies were refused and answered."""
    program = Path(sys.executable).parent / "schemathesis"
    command = [program, "--config-file", SETTINGS / "schemathesis.toml", "run", f"{url}/openapi.json"]
    counts = folder / "counts.json"
    ran = subprocess.run(
        [*command, "--max-examples", EXAMPLES, *arguments],
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(SETTINGS / "hooks.py"), "OPENAPI_COUNTS": str(counts)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    selected, tested = (re.search(rf"{word}: (\d+)", ran.stdout)[1] for word in ("Selected", "Tested"))
    assert selected == tested != "0", ran.stdout
    return json.loads(counts.read_text())


def mostly_answered(counts: dict[str, list[int]]) -> set[str]:
    return {path for path, (refused, answered) in counts.items() if answered > refused}


# Routes of models that the demo model is not.
NUMBERS = {"/v1/embeddings", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/classify"}
# The only operations that are linked are those of answers that are kept.
WITHOUT_LINKS = ["--phases", "examples,coverage,fuzzing"]


@pytest.mark.parametrize(
    ("paths", "more"),
    [
        ("^/v1/(chat|completions|messages)", WITHOUT_LINKS),
        ("^/v1/responses", []),
        # The other names of routes are left to the model that has them.
        ("^/(?!v1/(chat|completions|messages|responses|score|rerank)|v2)", WITHOUT_LINKS),
    ],
)
def test_the_server_is_as_its_document_says(server, tmp_path, paths, more):
    counts = run(server.url, tmp_path, "--include-path-regex", paths, *more)
    assert mostly_answered(counts) == counts.keys() - NUMBERS, counts


def test_a_model_that_embeds_is_as_its_document_says(minilm, tmp_path):
    paths = "^/(v1/(embeddings|score|rerank)|classify|tokenize)$"
    counts = run(minilm.url, tmp_path, "--include-path-regex", paths, *WITHOUT_LINKS)
    # It has no template for conversations, and takes no text without tokens.
    assert {path for path, (_, answered) in counts.items() if answered} == counts.keys() - {"/classify"}, counts


def test_keys_are_wanted_where_the_document_says_so(tmp_path):
    (tmp_path / "home").mkdir()
    with serving(tmp_path / "home", "demo", "--api-key", "secret") as server:
        document = httpx.get(f"{server.url}/openapi.json").raise_for_status().json()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
        paths = "^/(v1/models|detokenize|version|health|openapi.json)"
        key = ["-H", "Authorization: Bearer secret"]
        run(server.url, tmp_path, *key, "--include-path-regex", paths, *WITHOUT_LINKS)
