"""promtool's lint of the metrics of the proxy and of the admin API, and a strict parse of both."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from checks import MODEL, admin_url, run, url, work
from prometheus_client.parser import text_string_to_metric_families

PACKAGE = "prometheus"


def promtool() -> Path:
    """The one on PATH, or else Debian's, unpacked here and installed nowhere."""
    if found := shutil.which("promtool"):
        return Path(found)
    download = ["apt-get", "download", "-q", PACKAGE]
    if subprocess.run(download, cwd=work(), capture_output=True).returncode != 0:
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        subprocess.run(download, cwd=work(), check=True, capture_output=True)
    (package,) = work().glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, work()], check=True)
    return work() / "usr/bin/promtool"


def pages() -> dict[str, str]:
    """Both pages after requests of every kind that counts something of its own."""
    say = {"messages": [{"role": "user", "content": "Hello"}], "model": MODEL, "max_tokens": 8}
    post("/v1/chat/completions", say)
    post("/v1/chat/completions", say | {"stream": True})
    post("/v1/completions", {"model": MODEL, "prompt": "Hello", "max_tokens": 4})
    post("/v1/messages", say)
    post("/generate", {"prompt": "Hello", "generation_kwargs": {"max_new_tokens": 4}})
    post("/v1/chat/completions", say | {"model": 'no "such" \\ model\n'}, status=404)
    post("/v1/chat/completions", {}, status=400)
    return {
        name: urllib.request.urlopen(f"{base}/metrics").read().decode()
        for name, base in [("proxy", url()), ("admin", admin_url())]
    }


def post(path: str, body: dict, status: int = 200) -> None:
    request = urllib.request.Request(
        f"{url()}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            found = answer.status
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == status, f"{path} {body}: {found}"


def lint():
    """promtool check metrics"""
    tool = promtool()
    version = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout
    print(f"version {version.split()[2]}")
    for name, page in pages().items():
        found = subprocess.run([tool, "check", "metrics"], input=page, capture_output=True, text=True)
        assert found.returncode == 0 and not found.stderr, f"{name}: {found.stdout}{found.stderr}"
    return "proxy and admin"


def parse():
    """strict parse by prometheus-client"""
    counts = []
    for name, page in pages().items():
        families = list(text_string_to_metric_families(page))
        names = [family.name for family in families]
        assert len(names) == len(set(names)), f"{name}: a family comes twice"
        for family in families:
            assert family.documentation and family.type != "unknown", f"{name}: {family.name}"
            if family.type == "histogram":
                histogram(family)
        counts.append(len(families))
    return f"{counts[0]} and {counts[1]} families"


def histogram(family) -> None:
    """Buckets rise, end at +Inf, and the last is the count."""
    series: dict[tuple, dict[str, list]] = {}
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        kept = series.setdefault(labels, {"bucket": [], "count": [], "sum": []})
        kept[sample.name.rsplit("_", 1)[1]].append((sample.labels.get("le"), sample.value))
    for labels, kept in series.items():
        where = f"{family.name}{dict(labels)}"
        bounds = [float(bound) for bound, _ in kept["bucket"]]
        values = [value for _, value in kept["bucket"]]
        assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), where
        assert values == sorted(values), where
        assert [values[-1]] == [value for _, value in kept["count"]], where
        assert len(kept["sum"]) == 1, where


run(lint, parse)
