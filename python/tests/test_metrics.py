"""Metrics of one's own."""

import pytest

from tyndall import serve
from tyndall.serve import metrics
from tyndall.serve.context import (
    DeploymentID,
    ReplicaContext,
    ReplicaID,
    RequestContext,
    _serve_request_context,
    _set_internal_replica_context,
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(metrics, "_registry", metrics._Registry())


@pytest.fixture
def replica():
    _set_internal_replica_context(ReplicaContext(ReplicaID("r1", DeploymentID("d", "a"))))
    yield
    _set_internal_replica_context(None)


def test_a_page_has_all_kinds():
    counter = metrics.Counter("requests", description="how\nmany", tag_keys=("model",))
    counter.inc(tags={"model": 'a"b\\'})
    counter.inc(2.5, tags={"model": 'a"b\\'})
    counter.inc(tags={"model": "c"})
    gauge = metrics.Gauge("depth", "of the queue")
    gauge.set(3)
    gauge.set(-1.5)
    gauge.set(None)
    histogram = metrics.Histogram("size", "bytes", boundaries=[10, 1, 100])
    for value in (0.5, 1, 5, 1000):
        histogram.observe(value)
    metrics.Counter("unused")
    assert metrics.render() == (
        "# HELP ray_depth of the queue\n"
        "# TYPE ray_depth gauge\n"
        "ray_depth -1.5\n"
        "# HELP ray_requests_total how\\nmany\n"
        "# TYPE ray_requests_total counter\n"
        'ray_requests_total{model="a\\"b\\\\"} 3.5\n'
        'ray_requests_total{model="c"} 1.0\n'
        "# HELP ray_size bytes\n"
        "# TYPE ray_size histogram\n"
        'ray_size_bucket{le="1.0"} 2\n'
        'ray_size_bucket{le="10.0"} 3\n'
        'ray_size_bucket{le="100.0"} 3\n'
        'ray_size_bucket{le="+Inf"} 4\n'
        "ray_size_sum 1006.5\n"
        "ray_size_count 4\n"
    )


def test_a_replica_adds_who_it_is(replica):
    metrics.Counter("c", tag_keys=("route",)).inc(tags={"route": "/x"})
    assert 'ray_c_total{application="a",deployment="d",replica="r1",route="/x"} 1.0' in metrics.render()


def test_the_route_is_that_of_the_request():
    token = _serve_request_context.set(RequestContext(route="/items"))
    try:
        metrics.Gauge("g", tag_keys=("route",)).set(1)
    finally:
        _serve_request_context.reset(token)
    assert 'ray_g{route="/items"} 1.0' in metrics.render()


def test_default_tags_stand_in():
    counter = metrics.Counter("c", tag_keys=("a", "b"))
    counter.set_default_tags({"a": "1"})
    counter.inc(tags={"b": "2"})
    counter.inc(tags={"a": "3", "b": "2"})
    assert counter.info["default_tags"] == {"a": "1"}
    assert {line for line in metrics.render().splitlines() if line.startswith("ray_c")} == {
        'ray_c_total{a="1",b="2"} 1.0',
        'ray_c_total{a="3",b="2"} 1.0',
    }


def test_metrics_of_one_name_are_one():
    metrics.Counter("c").inc()
    metrics.Counter("c").inc()
    assert "ray_c_total 2.0\n" in metrics.render()
    for other in (lambda: metrics.Gauge("c"), lambda: metrics.Histogram("c", boundaries=[1])):
        with pytest.raises(ValueError, match="is there as a counter"):
            other()
    metrics.Histogram("h", boundaries=[1])
    with pytest.raises(ValueError, match=r"with boundaries \[1.0\]"):
        metrics.Histogram("h", boundaries=[2])


@pytest.mark.parametrize("key", ["deployment", "replica", "application"])
def test_tags_of_replicas_are_reserved(key):
    with pytest.raises(ValueError, match="reserved"):
        metrics.Counter("c", tag_keys=(key,))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: metrics.Counter(""), ValueError, "Empty name"),
        (lambda: metrics.Counter("c", tag_keys=["a"]), TypeError, "tuple"),
        (lambda: metrics.Counter("c", tag_keys=(1,)), TypeError, "must be str"),
        (lambda: metrics.Counter("c", tag_keys=("a b",)), ValueError, "is no name"),
        (lambda: metrics.Histogram("h"), ValueError, "needs boundaries"),
        (lambda: metrics.Histogram("h", boundaries=[1, 0]), ValueError, "at index 1"),
        (lambda: metrics.Counter("c").inc(0), ValueError, "must be >0"),
        (lambda: metrics.Counter("c").inc(float("nan")), ValueError, "must be >0"),
        (lambda: metrics.Counter("c").inc("1"), TypeError, "int or float"),
        (lambda: metrics.Gauge("g").set(True), TypeError, "int or float"),
        (lambda: metrics.Counter("c", tag_keys=("a",)).inc(), ValueError, "Missing value for tag key"),
        (lambda: metrics.Counter("c").inc(tags={"a": "1"}), ValueError, "Unrecognized tag key a"),
        (lambda: metrics.Counter("c", tag_keys=("a",)).inc(tags={"a": 1}), TypeError, "must be str"),
        (lambda: metrics.Counter("c").set_default_tags({"a": "1"}), ValueError, "Unrecognized tag key a"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_name_that_cannot_be_is_warned_of_and_not_kept():
    with pytest.warns(UserWarning, match="Invalid metric name: a-b"):
        metric = metrics.Counter("a-b")
    metric.inc()
    assert metrics.render() == ""


def test_they_are_found_from_serve():
    assert serve.metrics is metrics
