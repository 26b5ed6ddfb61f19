"""Events reach receivers of OTLP as spans, and figures as metrics, over HTTP and gRPC; a receiver that
is away for a while, and a gateway that is killed, lose none of what waits."""

import signal

import pytest
from e2b import Sandbox

grpc = pytest.importorskip("grpc", reason="only where the newest SDK is")

from otlp import OverGrpc, OverHttp, attributes_of, metrics, value_of  # noqa: E402

pytestmark = pytest.mark.plain("gateways of its own, whose transport has no part in it")

SECRET = "otlp-key-not-in-any-log-5d1e"
CUMULATIVE, DELTA = 2, 1


@pytest.fixture
def receiver(request):
    made = {"grpc": OverGrpc}.get(request.param, OverHttp)().start()
    made.protocol = request.param
    yield made
    made.stop()


@pytest.fixture
def exporting(new_gateway, receiver):
    def start(**more):
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": receiver.protocol,
            "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={SECRET}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.name=overruled",
            "OTEL_SERVICE_NAME": "sandboxes",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            **more,
        }
        return new_gateway(env=env).start()

    return start


def lived(gateway):
    """The id of a sandbox that has begun, run two commands, and ended."""
    with Sandbox.create(**gateway.opts) as sandbox:
        sandbox.commands.run("sleep 0.3")
        with pytest.raises(Exception, match="exit"):
            sandbox.commands.run("exit 3")
    return sandbox.sandbox_id


def ended(receiver, id):
    """Spans of that sandbox, once its end is among them."""
    own = [(span, of) for span, of in receiver.spans() if attributes_of(span)["coppice.sandbox.id"] == id]
    return own if any(span.name == "sandbox.terminated" for span, _ in own) else None


@pytest.mark.parametrize("receiver", ["http/protobuf", "http/json", "grpc"], indirect=True)
def test_events_are_spans_and_figures_are_metrics(exporting, receiver, eventually):
    gateway = exporting()
    id = lived(gateway)
    spans = eventually(lambda: ended(receiver, id))
    for span, resource in spans:
        assert resource["service.name"] == "sandboxes"
        assert resource["deployment.environment"] == "test"
        # What came of no request with a trace is in one that is called as its sandbox.
        assert span.trace_id.hex() == id or span.links, span
        assert len(span.span_id) == 8 and span.end_time_unix_nano >= span.start_time_unix_nano > 0
    names = [span.name for span, _ in spans]
    assert {"sandbox.created", "sandbox.started", "exec.completed", "sandbox.terminated"} <= set(names)
    assert len({span.span_id for span, _ in spans}) == len(spans)
    first, second = (span for span, _ in spans if span.name == "exec.completed")
    # One span of the beginning and the end, as long as the command was.
    assert "sleep 0.3" in attributes_of(first)["command"]
    assert attributes_of(first)["exitCode"] == 0 and attributes_of(second)["exitCode"] == 3
    assert 0.3e9 <= first.end_time_unix_nano - first.start_time_unix_nano < 5e9
    assert (first.status.code, second.status.code) == (0, 2) and "3" in second.status.message
    assert "exec.started" not in names

    def counted():
        created = receiver.metrics().get("coppice_sandboxes_created_total")
        return created and created.sum.data_points[0].as_int == 1 and created

    created = eventually(counted)
    assert created.sum.is_monotonic and created.sum.aggregation_temporality == CUMULATIVE
    (point,) = created.sum.data_points
    assert 0 < point.start_time_unix_nano < point.time_unix_nano
    took = receiver.metrics()["coppice_sandbox_create_duration_seconds"].histogram.data_points[0]
    assert took.count == sum(took.bucket_counts) == 1
    assert len(took.bucket_counts) == len(took.explicit_bounds) + 1
    states = receiver.metrics()["coppice_sandboxes"].gauge.data_points
    assert {value_of(one.value) for point in states for one in point.attributes} == {"running", "paused"}
    for _, headers in receiver.requests:
        assert {name.lower(): value for name, value in headers.items()}["api-key"] == SECRET
    assert SECRET not in gateway.log_tail(100_000)


@pytest.mark.parametrize("receiver", ["http/protobuf", "grpc"], indirect=True)
def test_what_is_away_for_a_while_gets_all_of_it_and_a_killed_gateway_loses_none(
    exporting, receiver, eventually
):
    gateway = exporting()
    ids = [lived(gateway)]
    eventually(lambda: ended(receiver, ids[0]))
    receiver.stop()
    ids.append(lived(gateway))
    # What a gateway has by now it has written down, or does within a moment.
    eventually(lambda: waiting(gateway) >= 6)
    gateway.end(signal.SIGKILL)
    gateway.start()
    ids.append(lived(gateway))
    if receiver.protocol == "grpc":
        receiver.fail(grpc.StatusCode.UNAVAILABLE)
    else:
        receiver.fail(503, (429, {"Retry-After": "1"}))
    receiver.start()
    for id in ids:
        spans = eventually(lambda id=id: ended(receiver, id), timeout=40)
        # Again, maybe, but by the same id; and none is missing.
        names = {span.span_id: span.name for span, _ in spans}
        counted = list(names.values())
        for name in ("sandbox.created", "sandbox.started", "sandbox.terminated"):
            assert counted.count(name) == 1, counted
        assert counted.count("exec.completed") == 2, counted


def waiting(gateway):
    """Events in the spools of exporters."""
    with gateway.http() as http:
        text = http.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("coppice_exporter_waiting")]
    return sum(float(line.split()[-1]) for line in lines if "bytes" not in line)


@pytest.mark.parametrize("receiver", ["http/protobuf"], indirect=True)
def test_differences_add_up(exporting, receiver, eventually):
    gateway = exporting(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta")
    lived(gateway)

    def points():
        return [
            point
            for request, _ in receiver.of(metrics.ExportMetricsServiceRequest)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "coppice_sandboxes_created_total"
            for point in metric.sum.data_points
            if metric.sum.aggregation_temporality == DELTA
        ]

    found = eventually(lambda: len(points()) >= 3 and points())
    assert sum(point.as_int for point in found) == 1
    for before, after in zip(found, found[1:]):
        assert before.time_unix_nano == after.start_time_unix_nano
