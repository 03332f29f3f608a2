"""The programs of `examples/`, as their texts say that they are run.

Those that answer HTTP are served by the binary that TYNDALL_BIN names, else by the one that `cargo build` left.
"""

import concurrent.futures
import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tyndall import serve

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DEADLINE_S = 120


def binary():
    if named := os.environ.get("TYNDALL_BIN"):
        return named
    built = [ROOT / "target" / profile / "tyndall" for profile in ("debug", "release")]
    found = [path for path in built if path.exists()]
    assert found, "there is no binary: run `cargo build -p tyndall-cli`, or name one in TYNDALL_BIN"
    return str(found[0])


def eventually(what, ask):
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {DEADLINE_S} s")


@contextlib.contextmanager
def serving(home, folder, target, *flags, **env):
    """`tyndall run TARGET` in a folder; gives the address of clients and that of operators."""
    output = home / "output"
    command = [binary(), "run", target, "--port", "0", "--admin-port", "0", *flags]
    settings = {
        "TYNDALL_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT / "python"),
        "XDG_CACHE_HOME": str(home),
        "NO_COLOR": "1",
        **env,
    }
    with output.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )

    def urls():
        text = output.read_text()
        assert process.poll() is None, text
        return "\nready" in text and list(dict.fromkeys(re.findall(r"http://127\.0\.0\.1:\d+", text)))

    try:
        url, admin, *_ = eventually("the server is ready", urls)
        yield url, admin
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """All of `examples/python`, served together as its config file has them."""
    with serving(tmp_path_factory.mktemp("home"), EXAMPLES / "python", "serve.yaml") as (url, _):
        yield url


def call(url, body=None, method=None):
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(
        url, data=data, method=method or ("GET" if data is None else "POST"), headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:
        return answer.read().decode()


def example(name):
    """A module of `examples/python`."""
    sys.path.insert(0, str(EXAMPLES / "python"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def test_every_program_has_an_application_in_the_config_file():
    text = (EXAMPLES / "python/serve.yaml").read_text()
    served = set(re.findall(r"import_path: (\w+):app", text))
    assert served == {path.stem for path in (EXAMPLES / "python").glob("*.py")}


def test_a_classifier_answers_json(url):
    assert json.loads(call(f"{url}/classify", {"text": "What a lovely day"})) == {"label": "POSITIVE", "score": 1}
    assert json.loads(call(f"{url}/classify", {"text": "an awful bad day"})) == {"label": "NEGATIVE", "score": -2}


def test_models_with_options_of_their_own_stand_side_by_side(url):
    assert json.loads(call(f"{url}/options?text=hello")) == ["hello!", "hello?"]
    handle = serve.run(example("options").app, _local_testing_mode=True)
    assert handle.ask.remote("a").result() == ["a!", "a?"]


def test_replicas_come_from_none(url):
    assert json.loads(call(f"{url}/fibonacci", b"20")) == 6765


def test_requests_are_worked_on_together(url):
    texts = [f"text {i}" for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
        answers = [json.loads(one) for one in pool.map(lambda text: call(f"{url}/batched", text), texts)]
    assert [one["length"] for one in answers] == [len(text) for text in texts]
    handle = serve.run(example("batched").app, _local_testing_mode=True)
    begun = [handle.predict.remote(text) for text in texts]
    assert max(one.result()["batch_size"] for one in begun) > 1
    begun = [handle.predict_tokens.remote(text) for text in ["a b c", "d e f", "g h", "i j k l m n"]]
    answers = [one.result() for one in begun]
    assert [one["tokens"] for one in answers] == [3, 3, 2, 6]
    assert max(one["batch_tokens"] for one in answers) == 8


def test_deployments_call_each_other(url):
    documents = ["qqq", "a tale of whales", "whales"]
    asked = {"query": "whale", "documents": documents}
    assert json.loads(call(f"{url}/search", asked)) == ["whales", "a tale of whales", "qqq"]
    handle = serve.run(example("search_pipeline").app, _local_testing_mode=True)
    assert handle.search.remote("q", documents).result()[0] == "qqq"


def test_routes_of_fastapi_are_methods(url):
    answer = json.loads(call(f"{url}/service/generate?prompt=a+b&max_tokens=3", method="POST"))
    assert answer == {"text": "a b a"}
    assert json.loads(call(f"{url}/service/health")) == {"status": "ok"}
    with pytest.raises(urllib.error.HTTPError) as told:
        call(f"{url}/service/generate", method="POST")
    assert told.value.code == 422


def test_tokens_come_one_by_one(url):
    assert call(f"{url}/stream", {"prompt": "a b c"}) == "A B C "
    handle = serve.run(example("streaming").app, _local_testing_mode=True)
    assert list(handle.options(stream=True).generate.remote("x y")) == ["X ", "Y "]


def test_a_model_that_python_names_is_served_without_it(url):
    asked = {"model": "haiku", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    answer = json.loads(call(f"{url}/llm/v1/chat/completions", asked))
    assert answer["choices"][0]["message"]["content"]


# --- The program for Ray Serve ----------------------------------------------------------------------------------------

STAND_INS = {
    "torch.py": """
        class cuda:
            is_available = staticmethod(lambda: False)
    """,
    # Generates the letters of the prompt backwards, as many as it may.
    "transformers.py": """
        import numpy

        class Inputs(dict):
            def to(self, device):
                assert device == "cpu"
                return self

        class Tokenizer:
            pad_token, eos_token, pad_token_id = None, "</s>", 0

            def __call__(self, prompts, return_tensors, padding):
                assert self.pad_token == "</s>" and padding and return_tensors == "pt"
                longest = max(map(len, prompts))
                ids = [[0] * (longest - len(text)) + list(map(ord, text)) for text in prompts]
                return Inputs(input_ids=numpy.array(ids))

            def batch_decode(self, rows, skip_special_tokens):
                return ["".join(chr(i) for i in row if i) for row in rows]

        class AutoTokenizer:
            @staticmethod
            def from_pretrained(model_id, padding_side):
                assert padding_side == "left"
                return Tokenizer()

        class Model:
            def to(self, device):
                return self

            def eval(self):
                return self

            def generate(self, input_ids, pad_token_id, max_new_tokens, do_sample, min_new_tokens=0, **sampling):
                assert set(sampling) == ({"temperature", "top_p"} if do_sample else set()), sampling
                return numpy.concatenate([input_ids, input_ids[:, ::-1][:, :max_new_tokens]], axis=1)

        class AutoModelForCausalLM:
            @staticmethod
            def from_pretrained(model_id):
                return Model()
    """,
}


@pytest.fixture
def libraries(tmp_path):
    """Modules in place of the libraries of models, which are too large for a test."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    for name, text in STAND_INS.items():
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def test_a_program_for_ray_serve_runs_as_it_is(tmp_path, libraries):
    text = (EXAMPLES / "ray_serverless/ray_serve_app.py").read_text()
    assert "from ray import serve" in text
    assert "import tyndall" not in text
    env = {
        "PYTHONPATH": f"{ROOT / 'python'}:{libraries}",
        "MODEL_ID": "tiny/model",
        "MAX_NEW_TOKENS": "3",
        "NUM_CPUS_PER_REPLICA": "0.1",
    }
    target = "examples/ray_serverless/ray_serve_app:deployment_graph"
    with serving(tmp_path, ROOT, target, **env) as (url, admin):
        # Nobody has asked, so there is no replica; the first request starts one.
        details = json.loads(call(f"{admin}/api/tyndall/applications/"))["applications"]["default"]
        assert details["deployments"]["RayServeLLM"]["replicas"] == []
        assert json.loads(call(f"{url}/healthz")) == {"status": "ok", "model": "tiny/model"}
        answer = json.loads(call(f"{url}/generate", {"prompt": "abcd"}))
        assert answer == {
            "model": "tiny/model",
            "prompts": ["abcd"],
            "completions": ["dcb"],
            "generation_kwargs": {"max_new_tokens": 3, "temperature": 0.7, "top_p": 0.9},
        }
        asked = {"prompts": ["ab", "cd"], "generation_kwargs": {"max_new_tokens": 1, "temperature": 0}}
        assert json.loads(call(f"{url}/generate", asked))["completions"] == ["b", "d"]
        with pytest.raises(urllib.error.HTTPError) as told:
            call(f"{url}/generate", {})
        assert told.value.code == 400


def test_the_program_and_the_engine_are_compared(tmp_path, libraries):
    with serving(tmp_path, ROOT, "demo"):
        # Its checkpoint is unpacked by now.
        (checkpoint,) = (tmp_path / "tyndall/demo").glob("[0-9a-f]*")
    env = {"TYNDALL_BIN": binary(), "PYTHONPATH": f"{ROOT / 'python'}:{libraries}", "NUM_CPUS_PER_REPLICA": "0.1"}
    command = [sys.executable, str(EXAMPLES / "ray_serverless/compare.py"), str(checkpoint)]
    command += ["--requests", "2", "--tokens", "3", "--rounds", "1"]
    env |= {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["transformers", "engine", "ratio"]
    assert [row[:20].strip() for row in rows] == ["wake from zero, s", "tokens/s", "memory, MiB"]
    for row in rows:
        left, right, ratio = row[20:].split()
        assert float(left) > 0 and float(right) > 0 and float(ratio.removesuffix("x")) >= 1


def test_the_readme_of_the_program_has_the_variables_that_it_reads():
    folder = EXAMPLES / "ray_serverless"
    read = re.findall(r'os\.environ\.get\("(\w+)", "([^"]*)"\)', (folder / "ray_serve_app.py").read_text())
    told = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(read) == sorted(told)
