"""The comparison with peers: its arithmetic, its load generator, and its half that runs this binary."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).parents[2] / "bench" / "peers"
sys.path.insert(0, str(PEERS))

import compare  # noqa: E402
import load  # noqa: E402
from figures import MEGABYTES, MILLISECONDS, OURS, TOKENS_PER_S, Results, ratios, spread  # noqa: E402
from ours import offline_rate  # noqa: E402
from processes import Child, PeerError, alive, descendants, identities, memory_mb  # noqa: E402
from target import Completions  # noqa: E402
from work import ROWS, Work  # noqa: E402
from worker import Worker  # noqa: E402


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "-"),
        ([12.34], "12.3"),
        ([3.0, 1.0, 2.0], "2.00 (1.00 … 3.00)"),
        ([1.0, 2.0, 30.0, 4000.0], "16.0 (1.00 … 4,000)"),
    ],
)
def test_spread_is_median_minimum_maximum(values, expected):
    assert spread(values) == expected


def test_ratios_are_run_by_run_and_above_one_where_ours_is_better():
    assert ratios([10, 30], [5, 10], TOKENS_PER_S) == [2, 3]
    assert ratios([10, 20], [1000, 1000], MILLISECONDS) == [100, 50]
    # A round that only one of the two has makes no ratio, nor does a failed measurement.
    assert ratios([10, 20], [5], TOKENS_PER_S) == [2]
    assert ratios([10], [0], TOKENS_PER_S) == []


def test_the_table_has_ours_first_and_the_rows_in_order():
    results = Results()
    for value in (4.0, 8.0):
        results.add("memory", "other", value * 3, MEGABYTES)
        results.add("memory", OURS, value, MEGABYTES)
    results.add("cold-start small", OURS, 50, MILLISECONDS)
    results.add("decode", OURS, 30, TOKENS_PER_S)
    order = compare.order(results)
    assert order == ["decode", "cold-start small", "memory"]
    assert results.table(order).splitlines() == [
        "|                      | tyndall            | other                                   |",
        "| -------------------- | ------------------ | --------------------------------------- |",
        "| decode, tok/s        | 30.0               | -                                       |",
        "| cold-start small, ms | 50.0               | -                                       |",
        "| memory, MB           | 6.00 (4.00 … 8.00) | 18.0 (12.0 … 24.0): 3.00x (3.00 … 3.00) |",
    ]
    assert results.as_json(order)["memory"] == {
        "unit": "MB",
        "more_is_better": False,
        "values": {"other": [12, 24], OURS: [4, 8]},
        "ratios": {"other": [3, 3]},
    }


def test_the_offline_rate_counts_the_prefill():
    report = {"metrics": [{"name": "prefill_b2", "value": 100.0}, {"name": "decode_b2", "value": 9.0}]}
    # 100 prompt tokens take 1 s, 18 decoded ones 2 s; the prefill made the other two.
    assert offline_rate(report, 2, 50, 10) == pytest.approx(20 / 3)
    with pytest.raises(PeerError, match="prefill_b8"):
        offline_rate(report, 8, 50, 10)


def test_prompts_repeat_with_their_seed_only():
    work = Work(threads=2, tokens=4, prefill=16, waves=1, dtype="bf16", timeout_s=60)
    assert work.prompts(3, 7) == work.prompts(3, 7)
    assert work.prompts(3, 7) != work.prompts(3, 8)
    assert {len(prompt.split()) for prompt in work.prompts(8, 1)} == {32}
    ids = work.prompt_ids(64, 1)
    assert len(ids) == 16 and 10 <= min(ids) and max(ids) < 64


@pytest.mark.parametrize("flag", ["--rows=decode,nonsense", "--peers=nobody", "--rounds=0"])
def test_odd_arguments_are_refused(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        compare.arguments(["--models", ".", flag])
    assert ended.value.code == 2
    assert flag.split("=")[0] in capsys.readouterr().err


async def answer_with(payload: bytes, ask):
    """Runs `ask(url)` in a thread against a server that answers every request with `payload`."""

    async def handle(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(size)
        writer.write(payload)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await asyncio.to_thread(ask, f"http://127.0.0.1:{port}")


def test_the_generator_reads_sized_and_chunked_answers_and_events():
    def post(url):
        return load.post(url, "/", {}, 60).body

    def stream(url):
        return load.stream(url, "/", {}, 60).events

    sized = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    assert asyncio.run(answer_with(sized, post)) == b"{}"
    # The chunks cut an event in the middle.
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b'9\r\ndata: {"a\r\nd\r\n": 1}\n\ndata: \r\n8\r\n[DONE]\n\n\r\n0\r\n\r\n'
    assert asyncio.run(answer_with(head + chunks, stream)) == [{"a": 1}]
    assert asyncio.run(answer_with(head + chunks, post)) == b'data: {"a": 1}\n\ndata: [DONE]\n\n'


def test_the_generator_reports_refusals_and_broken_connections():
    def post(url):
        return load.post(url, "/v1/completions", {}, 60)

    refusal = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nfull"
    with pytest.raises(PeerError, match="/v1/completions answered 503: full"):
        asyncio.run(answer_with(refusal, post))
    with pytest.raises(PeerError, match="the connection broke"):
        asyncio.run(answer_with(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab", post))


def test_an_answer_of_another_length_is_no_figure(server):
    work = Work(threads=1, tokens=8, prefill=8, waves=1, dtype="bf16", timeout_s=60)
    figure = Completions(server.url, "demo", work).serve("serve4", 1)
    assert figure.row == "serve4" and figure.value > 0
    with pytest.raises(PeerError, match="8 tokens were asked for, 7 came"):
        Completions._check({"usage": {"completion_tokens": 7}}, 8)


def test_a_child_ends_with_all_that_it_started():
    child = Child(["sh", "-c", "sleep 600 & echo started; wait"])
    child.wait_until("it started", lambda: "started" in child.output() and descendants(child.pid), 60)
    tree = [child.pid, *descendants(child.pid)]
    assert memory_mb(tree) > 0
    known = identities(tree)
    assert sorted(alive(known)) == sorted(tree)
    # Another process that got one of the numbers later is none of them.
    assert alive(dict.fromkeys(tree, "0")) == []
    child.stop()
    assert alive(known) == []
    assert not child.log.exists()


def test_a_child_that_ends_early_is_reported_with_its_last_words():
    child = Child(["sh", "-c", "echo no model >&2; exit 3"])
    with pytest.raises(PeerError, match="ended with 3:\nno model"):
        child.wait_until("it is ready", lambda: False, 60)
    child.stop()
    with pytest.raises(PeerError, match="failed to start /no/such/binary"):
        Child(["/no/such/binary"])


def test_workers_answer_jobs_with_their_time():
    script = (
        "import jobs\n"
        "def generate(prompts, tokens):\n"
        "    print('a library that talks')\n"
        "    assert tokens == 4, 'not four'\n"
        "jobs.serve('fake', generate, lambda ids: None)\n"
    )
    child = Child([sys.executable, "-c", script], {"PYTHONPATH": str(PEERS)}, stdin=True)
    worker = Worker(child, 60)
    assert worker.line() == {"ready": "fake"}
    assert worker.seconds(job="generate", prompts=["a"], tokens=4) >= 0
    assert worker.seconds(job="prefill", ids=[1]) >= 0
    with pytest.raises(PeerError, match="not four"):
        worker.seconds(job="generate", prompts=["a"], tokens=5)
    child.stop()


def test_compare_measures_this_binary_and_skips_what_is_not_installed(tmp_path):
    report = tmp_path / "report.json"
    sizes = ["--rounds", "2", "--tokens", "4", "--prefill", "32", "--threads", "1"]
    models = ["--models", str(tmp_path), "--model", "demo", "--small-model", "demo"]
    peers = ["--llama-server", "/no/such/llama-server", "--peers", "openvino,llama.cpp"]
    done = subprocess.run(
        [
            sys.executable,
            str(PEERS / "compare.py"),
            "--tyndall",
            os.environ["TYNDALL_BIN"],
            *[*models, *sizes, *peers, "--json", str(report)],
        ],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "llama.cpp is skipped: --llama-server: no /no/such/llama-server" in done.stderr
    assert "openvino is skipped: " in done.stderr
    page = json.loads(report.read_text())
    assert list(page["targets"]) == [OURS] and page["failures"] == []
    # The row that needs `bench engine` is left out by a binary without it.
    rows = [row.split(" ")[0] for row in page["rows"] if row != "offline"]
    assert rows == [row for row in ROWS if row != "offline"]
    for row in page["rows"].values():
        assert len(row["values"][OURS]) == 2 and min(row["values"][OURS]) > 0
    for row in page["rows"]:
        assert f"| {row}, " in done.stdout
    assert "machine: " in done.stdout


def test_compare_names_what_is_missing(tmp_path):
    command = [sys.executable, str(PEERS / "compare.py"), "--models", str(tmp_path), "--peers", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no checkpoint in" in done.stderr and "make_checkpoints.py" in done.stderr
    done = subprocess.run([*command, "--model=demo", "--small-model=demo", "--tyndall=/none"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "/none does not run: cargo build" in done.stderr
