"""What `ray.exceptions` is: what calls of deployments end with, by the names of Ray's core."""

from __future__ import annotations

from tyndall.serve.exceptions import (
    BackPressureError,
    RayServeException,
    RayTaskError,
    ReplicaUnavailableError,
    TaskCancelledError,
)

__all__ = [
    "BackPressureError",
    "GetTimeoutError",
    "RayActorError",
    "RayError",
    "RayServeException",
    "RayTaskError",
    "TaskCancelledError",
]

# Under Ray an answer that is late is both.
GetTimeoutError = TimeoutError
RayError = RayServeException
RayActorError = ReplicaUnavailableError
ActorDiedError = ReplicaUnavailableError
ActorUnavailableError = ReplicaUnavailableError
PendingCallsLimitExceeded = BackPressureError
