"""Receivers of OTLP, as a collector is one, that decode what comes with OpenTelemetry's own protobuf
types: over HTTP (protobuf and JSON) and over gRPC. They fail when they are told to, and can be ended
and started again where they were."""

import base64
import contextlib
import gzip
import socket
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

from gateway import free_port

KINDS = {
    "/v1/traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
    "/v1/metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse),
}
# OTLP's JSON has ids in hex, where protobuf's has all bytes in base64.
IDS = {"traceId", "spanId", "parentSpanId"}


def value_of(value):
    """What an attribute has as its value."""
    return getattr(value, value.WhichOneof("value"))


def attributes_of(thing):
    return {one.key: value_of(one.value) for one in thing.attributes}


def with_base64(json):
    """OTLP's JSON as protobuf's own reader wants it."""
    if isinstance(json, list):
        return [with_base64(one) for one in json]
    if not isinstance(json, dict):
        return json
    return {
        name: base64.b64encode(bytes.fromhex(value)).decode()
        if name in IDS
        else with_base64(value)
        for name, value in json.items()
    }


class Taken:
    """What a receiver has taken, whichever it is."""

    def __init__(self):
        self.lock, self.requests, self.failures = threading.Lock(), [], []
        self.port, self.server = free_port(), None

    def fail(self, *failures):
        """So the next requests of traces end."""
        with self.lock:
            self.failures.extend(failures)

    def failure(self, request):
        with self.lock:
            is_trace = isinstance(request, traces.ExportTraceServiceRequest)
            return self.failures.pop(0) if is_trace and self.failures else None

    def take(self, request, headers):
        with self.lock:
            self.requests.append((request, headers))

    def of(self, kind):
        with self.lock:
            return [(one, headers) for one, headers in self.requests if isinstance(one, kind)]

    def spans(self):
        """Each with the attributes of whom it comes from."""
        return [
            (span, attributes_of(resource.resource))
            for request, _ in self.of(traces.ExportTraceServiceRequest)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name):
        return [span for span, _ in self.spans() if span.name == name]

    def metrics(self):
        """By name, as they were told last."""
        return {
            metric.name: metric
            for request, _ in self.of(metrics.ExportMetricsServiceRequest)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


class OverHttp(Taken):
    """Failures are statuses, or pairs of a status and headers."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        receiver, self.connections = self, set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                receiver.connections.add(self.connection)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                kind, answer = KINDS[self.path]
                is_json = self.headers["Content-Type"] == "application/json"
                if is_json:
                    json = json_format.json.loads(body)
                    request = json_format.ParseDict(with_base64(json), kind())
                else:
                    request = kind.FromString(body)
                status, headers = 200, {}
                if failure := receiver.failure(request):
                    status, headers = failure if isinstance(failure, tuple) else (failure, {})
                else:
                    receiver.take(request, dict(self.headers))
                text = b"{}" if is_json else answer().SerializeToString()
                self.send_response(status)
                kind = "application/json" if is_json else "application/x-protobuf"
                for name, value in {"Content-Type": kind, **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
            # Those that are kept open would be answered on.
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class OverGrpc(Taken):
    """Failures are gRPC's codes."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        receiver = self

        class Service:
            def __init__(self, answer):
                self.answer = answer

            def Export(self, request, context):
                if failure := receiver.failure(request):
                    context.abort(failure, "as it was told")
                receiver.take(request, dict(context.invocation_metadata()))
                return self.answer()

        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        traces_grpc.add_TraceServiceServicer_to_server(
            Service(traces.ExportTraceServiceResponse), self.server
        )
        metrics_grpc.add_MetricsServiceServicer_to_server(
            Service(metrics.ExportMetricsServiceResponse), self.server
        )
        assert self.server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self.server.start()
        return self

    def stop(self):
        if self.server:
            self.server.stop(0).wait(10)
            self.server = None
