"""The process of an application's autoscaling policies: it answers what the controller asks them.

It is started as `role policies` (`_sidecar`). `POST /-/decide` brings the contexts of
one policy; each has at most one question at a time, and policies of several deployments answer side by side. What they
return beside the number is handed to the controller as a pickle, which it gives back with the next question and does
not read: it outlives this process.
"""

from __future__ import annotations

import base64
import http.server
import json
import math
import pickle
import socketserver
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._graph import code_of
from ._sidecar import Unusable as PolicyError
from ._sidecar import begin, placed
from ._sidecar import shown as _shown
from .config import AggregationFunction, AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from .context import DeploymentID, ReplicaID, TimeStampedValue

_MAX_STATE_BYTES = 1 << 20

Policy = Callable[[Any], Any]


def main(load: Callable[[dict[str, Any]], Any], argv: list[str]) -> int:
    """Answers until it is told to end; `argv` is what follows `role policies`."""
    sidecar = begin("policies", argv)
    try:
        policies = Policies(load, sidecar.told)
    except BaseException as error:
        sidecar.failed("failed to load its autoscaling policies", error)
        return 1
    with _Server(str(sidecar.socket), policies) as server:
        sidecar.ready()
        server.serve_forever()
    return 0


# --- Policies ---------------------------------------------------------------------------------------------------------


class Policies:
    """The policies of an application, ready to be asked."""

    def __init__(self, load: Callable[[dict[str, Any]], Any], told: Mapping[str, Any]) -> None:
        self.app_name: str = told["application"]
        own = self._of_code(load(told["args"]))
        self._of_app: Policy | None = None
        if told["policy"] is not None:
            self._of_app = resolved(told["policy"], None)
        named = told["deployments"].items()
        self._of: dict[str, Policy] = {name: resolved(policy, own.get(name)) for name, policy in named}

    def _of_code(self, app: Any) -> dict[str, AutoscalingPolicy]:
        """The policies that the code itself has, which need not be importable."""
        policies = {}
        for name, code in code_of(app, self.app_name).items():
            scaling = code.options.get("autoscaling_config")
            if scaling is not None:
                policies[name] = scaling.get_policy()
        return policies

    def decide(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question. Raises PolicyError, or what the policy raises."""
        contexts = {DeploymentID(one["deployment_name"], self.app_name): one for one in question["contexts"]}
        made = {of: context(of, one) for of, one in contexts.items()}
        name = question.get("deployment")
        if name is None:
            decisions, states = self._decide_all(made)
        else:
            of = DeploymentID(name, self.app_name)
            answer = self._of[name](made[of])
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise PolicyError(f"it returned {_shown(answer)}\nreturn a number and a dict: what it wants back")
            decisions, states = {of: answer[0]}, {of: {} if answer[1] is None else answer[1]}
        return {
            "decisions": {of.name: _number(decided) for of, decided in decisions.items()},
            "states": {of.name: _written(state) for of, state in states.items()},
        }

    def _decide_all(self, contexts: dict[DeploymentID, AutoscalingContext]) -> tuple[dict[Any, Any], dict[Any, Any]]:
        assert self._of_app is not None, "it is asked for what it was told of"
        answer = self._of_app(contexts)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise PolicyError(f"it returned {_shown(answer)}\nreturn two dicts by deployment: numbers, and states")
        decisions, states = answer
        states = {} if states is None else states
        for what, given in (("decisions", decisions), ("policy_state", states)):
            if not isinstance(given, Mapping):
                raise PolicyError(f"its {what} are {_shown(given)}\nreturn a dict with a DeploymentID for each key")
            for of in given:
                if of not in contexts:
                    known = ", ".join(str(one) for one in contexts)
                    raise PolicyError(f"its {what} have {_shown(of)}, which it was not asked about\nthere are {known}")
        return dict(decisions), dict(states)


def resolved(told: Mapping[str, Any], own: AutoscalingPolicy | None) -> Policy:
    """A policy that can be called: what the code has under this path, else what can be imported; a class is made."""
    path, kwargs = told["policy_function"], told.get("policy_kwargs") or {}
    is_own = own is not None and own.policy_function == path
    policy: Any = own if is_own else AutoscalingPolicy(policy_function=path, policy_kwargs=kwargs)
    found = policy.get_policy()
    if isinstance(found, type):
        found = found(**kwargs)
    if not callable(found):
        raise TypeError(f"the autoscaling policy {path!r} is {type(found).__name__}\nname a function, or a class")
    made: Policy = found
    return made


def context(of: DeploymentID, told: Mapping[str, Any]) -> AutoscalingContext:
    """What a policy is handed, of what the controller says."""
    raw = {
        metric: {ReplicaID(id, of): [TimeStampedValue(*point) for point in points] for id, points in by.items()}
        for metric, by in told["raw_metrics"].items()
    }
    config = configured(told["config"])
    return AutoscalingContext(
        deployment_id=of,
        deployment_name=of.name,
        app_name=of.app_name,
        current_num_replicas=told["current_num_replicas"],
        target_num_replicas=told["target_num_replicas"],
        running_replicas=[ReplicaID(replica, of) for replica in told["running_replicas"]],
        total_num_requests=told["total_num_requests"],
        total_queued_requests=told["total_queued_requests"],
        aggregated_metrics={
            metric: {replica: aggregated(points, told["current_time"], config) for replica, points in by.items()}
            for metric, by in raw.items()
        },
        raw_metrics=raw,
        capacity_adjusted_min_replicas=told["capacity_adjusted_min_replicas"],
        capacity_adjusted_max_replicas=told["capacity_adjusted_max_replicas"],
        policy_state=_read(told.get("policy_state")),
        last_scale_up_time=told["last_scale_up_time"],
        last_scale_down_time=told["last_scale_down_time"],
        current_time=told["current_time"],
        config=config,
    )


def configured(told: Mapping[str, Any]) -> AutoscalingConfig:
    """The deployment's `autoscaling_config`, with every default filled in."""
    known = [name for name in AutoscalingConfig.field_names() if name in told and name != "policy"]
    return AutoscalingConfig(**{name: told[name] for name in known})


def aggregated(points: list[TimeStampedValue], now: float, config: AutoscalingConfig) -> float:
    """What counts of a metric: each value holds until the next, the last one until now."""
    values = [point.value for point in points]
    if config.aggregation_function == AggregationFunction.MAX:
        return max(values)
    if config.aggregation_function == AggregationFunction.MIN:
        return min(values)
    ends = [point.timestamp for point in points[1:]] + [now]
    lengths = [max(0.0, end - point.timestamp) for point, end in zip(points, ends, strict=True)]
    total = sum(lengths)
    if total <= 0.0:
        return values[-1]
    return sum(value * length for value, length in zip(values, lengths, strict=True)) / total


def _number(decided: Any) -> float:
    try:
        number = float(decided)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(decided, str) or not math.isfinite(number):
        raise PolicyError(f"it asks for {_shown(decided)} replicas\nreturn a finite number")
    return number


def _written(state: Any) -> str:
    if not isinstance(state, Mapping):
        raise PolicyError(f"its policy_state is {_shown(state)}\nreturn a dict: what it wants back the next time")
    import cloudpickle  # type: ignore[import-untyped]

    try:
        text = base64.b64encode(cloudpickle.dumps(dict(state))).decode()
    except Exception as error:
        raise PolicyError(
            f"its policy_state cannot be pickled: {error}\nkeep in it what can be, such as numbers, texts and lists"
        ) from error
    if len(text) > _MAX_STATE_BYTES:
        raise PolicyError(
            f"its policy_state has {len(text)} bytes, and {_MAX_STATE_BYTES} may be kept\n"
            "keep less in it, such as sums in place of all values"
        )
    return text


def _read(state: str | None) -> dict[str, Any]:
    read: dict[str, Any] = {} if state is None else pickle.loads(base64.b64decode(state))
    return read


# --- The socket -------------------------------------------------------------------------------------------------------


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread for each connection: the controller has one for each question under way."""

    daemon_threads = True

    def __init__(self, path: str, policies: Policies) -> None:
        self.policies = policies
        Path(path).unlink(missing_ok=True)
        super().__init__(path, _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # Each answer goes out at once, in one piece.
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/-/decide":
            self._answer(404, b"")
            return
        try:
            self._answer(200, json.dumps(self.server.policies.decide(json.loads(body))).encode())
        except ConnectionError:
            raise
        except BaseException as error:
            self._answer(422, placed(error, __file__).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each question would say nothing."""
