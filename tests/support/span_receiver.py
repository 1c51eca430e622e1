"""What takes spans over HTTP on loopback, and reads them with OTLP's official classes."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["SpanReceiver", "attributes_of", "receiving"]


class SpanReceiver:
    """What has come.

    Attributes:
        url: Where it listens.
        requests: The requests that it took, in order.
        path: That of the latest one.
        headers: Those of the latest one.
        statuses: What it answers to the next requests instead of taking them.
        adds: The headers that its answers have besides.
        rejects: How many spans of each request it says that it rejects.
        largest: The largest request that it takes, in bytes, uncompressed; None: any.
        visits: How often it was asked for a page, which it has.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[ExportTraceServiceRequest] = []
        self.path = ""
        self.headers: dict[str, str] = {}
        self.statuses: list[int] = []
        self.adds: dict[str, str] = {}
        self.rejects = 0
        self.largest: int | None = None
        self.visits = 0

    @property
    def spans(self) -> list[Any]:
        """All spans that it has, in the order in which they came."""
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Take a request, and answer."""
        self.path, self.headers = path, headers
        if self.statuses:
            return self.statuses.pop(0), b""
        if (path.partition("?")[0], headers.get("content-type")) != ("/v1/traces", "application/x-protobuf"):
            return 404, b""
        request = gzip.decompress(body)
        if self.largest is not None and len(request) > self.largest:
            return 413, b""
        self.requests.append(ExportTraceServiceRequest.FromString(request))
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejects
        return 200, answer.SerializeToString()


def attributes_of(one: Any) -> dict[str, Any]:
    """The attributes of a span, an event, a link or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in one.attributes}


@contextmanager
def receiving() -> Iterator[SpanReceiver]:
    """A receiver, as long as this is entered."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer = receiver.take(self.path, headers, body)
            self._answer(status, {"Content-Type": "application/x-protobuf"} | receiver.adds, answer)

        def do_GET(self) -> None:
            receiver.visits += 1
            self._answer(200, {"Content-Type": "text/html"}, b"<p>Who are you?")

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = SpanReceiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join(20)
