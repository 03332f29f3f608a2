"""What calls end with when they do not end well, by Ray Serve's names.

`http_status` is the status of an HTTP answer with the error. Errors cross processes by pickle, with all that they have.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

__all__ = [
    "BackPressureError",
    "DeploymentActorUnavailableError",
    "DeploymentUnavailableError",
    "RayServeException",
    "RayTaskError",
    "ReplicaUnavailableError",
    "RequestCancelledError",
    "TaskCancelledError",
    "gRPCStatusError",
]


class RayServeException(Exception):
    """Any error of serving, as opposed to one of the code that is served."""

    http_status: ClassVar[int] = 500
    retry_after_s: float | None = None

    @property
    def retry_after(self) -> str | None:
        """The value of the header `Retry-After`, where another try may go better."""
        return None if self.retry_after_s is None else str(math.ceil(self.retry_after_s))


class RayTaskError(RayServeException):
    """What a deployment's code has raised, as text: the traceback in its replica."""


class TaskCancelledError(Exception):
    """Ray's name of a task that was cancelled, which a cancelled request is."""


class BackPressureError(RayServeException):
    """Too many requests wait already."""

    http_status: ClassVar[int] = 503

    def __init__(
        self,
        num_queued_requests: int,
        max_queued_requests: int,
        status_code: int = 503,
        retry_after_s: float | None = None,
    ) -> None:
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests
        self.status_code = status_code
        self.retry_after_s = retry_after_s
        super().__init__(num_queued_requests, max_queued_requests, status_code, retry_after_s)

    def __str__(self) -> str:
        return (
            f"Request dropped due to backpressure (num_queued_requests={self.num_queued_requests}, "
            f"max_queued_requests={self.max_queued_requests})."
        )

    @property
    def message(self) -> str:
        return str(self)


class RequestCancelledError(RayServeException, TaskCancelledError):
    """The request was cancelled by whoever made it."""

    http_status: ClassVar[int] = 499

    def __init__(self, request_id: str | None = None) -> None:
        self.request_id = request_id
        super().__init__(request_id)

    def __str__(self) -> str:
        return f"Request {self.request_id} was cancelled." if self.request_id else "Request was cancelled."


class DeploymentUnavailableError(RayServeException):
    """The deployment has no replica and will not have one soon."""

    http_status: ClassVar[int] = 503

    def __init__(
        self, deployment_id: Any, reason: str = "it failed to deploy.", retry_after_s: float | None = None
    ) -> None:
        self.deployment_id = deployment_id
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(deployment_id, reason, retry_after_s)

    def __str__(self) -> str:
        return f"{self.deployment_id} is unavailable because {self.reason}"

    @property
    def message(self) -> str:
        return str(self)


class ReplicaUnavailableError(RayServeException):
    """The replica that had the request, or was chosen for it, is gone."""

    http_status: ClassVar[int] = 503

    def __init__(self, replica_id: Any, reason: str = "") -> None:
        self.replica_id = replica_id
        self.reason = reason
        super().__init__(replica_id, reason)

    def __str__(self) -> str:
        return self.reason or f"Replica {self.replica_id} is no longer available."

    @property
    def message(self) -> str:
        return str(self)


class DeploymentActorUnavailableError(ReplicaUnavailableError):
    """The deployment actor that was called is gone, or is being started again."""

    def __init__(self, actor_name: str, reason: str = "") -> None:
        super().__init__(None, reason or f"The deployment actor {actor_name!r} is no longer available.")
        self.actor_name = actor_name
        # What a copy is made from.
        self.args = (actor_name, reason)


class gRPCStatusError(RayServeException):  # noqa: N801, Ray's name
    """An error whose code and details of gRPC the user's code has set."""

    def __init__(
        self,
        original_exception: BaseException,
        code: Any = None,
        details: str | None = None,
    ) -> None:
        self._original_exception = original_exception
        self._code = code
        self._details = details
        super().__init__(original_exception, code, details)

    def __str__(self) -> str:
        return str(self._original_exception)

    @property
    def original_exception(self) -> BaseException:
        return self._original_exception

    @property
    def grpc_code(self) -> Any:
        return self._code

    @property
    def grpc_details(self) -> str | None:
        return self._details


def http_status(error: BaseException) -> int:
    """The status of an HTTP answer with this error."""
    if isinstance(error, BackPressureError):
        return error.status_code
    if isinstance(error, RayServeException):
        return error.http_status
    return 408 if isinstance(error, TimeoutError) else 500
