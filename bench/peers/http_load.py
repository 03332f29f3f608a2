"""The load of `tyndall bench http`, the same for every server."""

import json
import subprocess
import tempfile
from pathlib import Path

from processes import PeerError


def measure(
    tyndall: str, url: str, connections: int, sent: list[str], seconds: float, timeout_s: float
) -> tuple[float, float, float]:
    """Requests per second, and the median and the 99th percentile of their latencies in milliseconds.

    `sent` are the flags that say what each request is. Raises PeerError where not every request was answered well.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "http.json"
        flags = ["-c", str(connections), "--duration", str(seconds), "--threads", "1", "--warmup", "1"]
        command = [tyndall, "bench", "http", url, *sent, *flags, "--json", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + timeout_s, check=False)
        if done.returncode != 0:
            raise PeerError(f"tyndall bench http failed: {done.stderr.strip()[-400:]}")
        page = json.loads(report.read_text())
    values = {metric["name"]: metric["value"] for metric in page["metrics"]}
    if values["failed"] or values["refused"]:
        raise PeerError(f"{values['failed']:.0f} requests failed, {values['refused']:.0f} were refused")
    (latency,) = (found["summary"] for found in page["distributions"] if found["name"] == "e2el")
    # One for every half percent.
    return values["request_throughput"], latency["quantiles"][100], latency["quantiles"][198]
