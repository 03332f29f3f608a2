"""Errors of serving, by Ray's names."""

import asyncio
import pickle

import pytest

from tyndall.serve import exceptions
from tyndall.serve._user_callable import UserCallable
from tyndall.serve.context import DeploymentID
from tyndall.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
    gRPCStatusError,
    http_status,
)

ALL = [
    (RayServeException("no"), "no", 500),
    (
        BackPressureError(3, 2),
        "Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=2).",
        503,
    ),
    (
        BackPressureError(3, 2, status_code=429, retry_after_s=6.2),
        "Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=2).",
        429,
    ),
    (RequestCancelledError("r"), "Request r was cancelled.", 499),
    (RequestCancelledError(), "Request was cancelled.", 499),
    (
        DeploymentUnavailableError(DeploymentID("d", "a")),
        "Deployment(name='d', app='a') is unavailable because it failed to deploy.",
        503,
    ),
    (ReplicaUnavailableError("r"), "Replica r is no longer available.", 503),
    (gRPCStatusError(ValueError("cause"), "NOT_FOUND", "details"), "cause", 500),
]


@pytest.mark.parametrize(("error", "text", "status"), ALL)
def test_each_has_its_text_and_status_also_in_another_process(error, text, status):
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(one, RayServeException)
        assert type(one) is type(error)
        assert (str(one), http_status(one)) == (text, status)
        assert {key: str(value) for key, value in vars(one).items()} == {
            key: str(value) for key, value in vars(error).items()
        }


def test_attributes_are_rays():
    full = BackPressureError(1, 2, 429, 6.2)
    assert (full.num_queued_requests, full.max_queued_requests) == (1, 2)
    assert (full.status_code, full.retry_after_s, full.retry_after) == (429, 6.2, "7")
    assert full.message == str(full)
    assert BackPressureError(1, 2).retry_after is None
    assert DeploymentUnavailableError("D", retry_after_s=0.2).retry_after == "1"
    assert DeploymentUnavailableError("D").retry_after is None
    status = gRPCStatusError(ValueError("cause"), "NOT_FOUND", "details")
    assert (str(status.original_exception), status.grpc_code, status.grpc_details) == ("cause", "NOT_FOUND", "details")
    assert isinstance(RequestCancelledError(), exceptions.TaskCancelledError)


def test_errors_of_the_users_code_have_statuses_too():
    assert http_status(TimeoutError()) == 408
    assert http_status(ValueError()) == 500


@pytest.mark.parametrize("end", (StopIteration, StopAsyncIteration))
def test_what_ends_a_loop_is_an_error_of_a_deployment(end):
    def raises():
        raise end

    async def raises_later():
        raise end

    async def calls():
        for code in (raises, raises_later):
            user = UserCallable(code, 1)
            await user.start((), {})
            with pytest.raises(RuntimeError, match=end.__name__):
                await user.call("__call__", (), {})
            await user.stop()

    asyncio.run(calls())
