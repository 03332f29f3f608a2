"""What a platform reads: metrics, probes, headers, disconnects."""

import httpx
from conftest import eventually
from prometheus_client.parser import text_string_to_metric_families

HAIKU = {"prompt": "Write a haiku about Ray Serve."}


def samples(server, name):
    page = httpx.get(f"{server.url}/metrics").raise_for_status().text
    families = text_string_to_metric_families(page)
    return [sample for family in families for sample in family.samples if sample.name == name]


def total(server, name):
    return sum(sample.value for sample in samples(server, name))


def test_metrics_are_prometheus_and_count(server):
    httpx.post(f"{server.url}/generate", json=HAIKU).raise_for_status()
    tokens = total(server, "tyndall_generation_tokens_total")
    httpx.post(f"{server.url}/generate", json=HAIKU).raise_for_status()
    assert total(server, "tyndall_generation_tokens_total") > tokens > 0
    assert total(server, "tyndall_time_to_first_token_seconds_count") >= 2
    assert total(server, "tyndall_inter_token_latency_seconds_count") > 0
    assert total(server, "tyndall_wakes_total") >= 1
    assert total(server, "tyndall_replicas") >= 1
    assert total(server, "tyndall_cold_start_seconds_count") > 0
    eventually("nothing runs", lambda: total(server, "tyndall_requests_running") == 0)
    assert 0 <= total(server, "tyndall_kv_cache_usage_ratio") <= 1


def test_every_answer_has_an_id_and_timings(server):
    answer = httpx.post(f"{server.url}/generate", json=HAIKU, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    phases = [part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")]
    # Whoever comes first gets the parts of the wake too.
    assert [phase for phase in phases if not phase.startswith("wake.")] == ["queue", "wake", "prefill", "decode"]
    assert httpx.get(f"{server.url}/healthz").headers["x-request-id"]


def test_probes(server):
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok", "model": "demo"}
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_a_disconnect_frees_the_engine(server):
    request = {"model": "demo", "prompt": "Hello", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=request) as answer:
        assert answer.status_code == 200
        next(answer.iter_lines())
    eventually("the sequence is gone", lambda: total(server, "tyndall_requests_running") == 0)
    aborted = [s.value for s in samples(server, "tyndall_request_success_total") if "abort" in s.labels.values()]
    assert sum(aborted) >= 1


def test_generate_answers_a_list_in_order(server):
    prompts = ["Write a haiku about autumn.", "What is a replica?", "Hello"]
    kwargs = {"temperature": 0, "max_new_tokens": 20}
    together = httpx.post(f"{server.url}/generate", json={"prompts": prompts, "generation_kwargs": kwargs}).json()
    assert list(together) == ["model", "prompts", "completions", "generation_kwargs"]
    assert together["prompts"] == prompts
    assert together["generation_kwargs"] == {"max_new_tokens": 20, "temperature": 0.0, "top_p": 0.9}
    alone = [
        httpx.post(f"{server.url}/generate", json={"prompt": p, "generation_kwargs": kwargs}).json()["completions"][0]
        for p in prompts
    ]
    assert together["completions"] == alone
