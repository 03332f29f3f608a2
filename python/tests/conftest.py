"""What tests of the SDK share."""

import logging

import pytest

from tyndall import serve  # noqa: F401, it sets up the logger
from tyndall.serve import _local_testing


@pytest.fixture
def warned(caplog):
    """Messages of the logger of serving; it keeps its records from others, and so from pytest."""
    logger = logging.getLogger("tyndall.serve")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No test finds a server that it did not start, or leaves an application behind."""
    monkeypatch.setenv("TYNDALL_ADDRESS", "http://127.0.0.1:1")
    yield
    _local_testing.shutdown()
