"""Spans in OpenTelemetry's own protocol, OTLP over HTTP, with its official protobuf classes.

The classes alone, and not the SDK with its exporter: the SDK makes spans that begin now and have random ids, and
runs threads of its own; here spans are of what was, with ids that are given, and are to be acknowledged.

Source: https://opentelemetry.io/docs/specs/otlp/ (OTLP/HTTP, binary protobuf).
"""

from __future__ import annotations

import gzip
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from urllib.parse import unquote, urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from runstream.integrations.opentelemetry.spans import Attributes, Span
from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.model.identifiers import shown

__all__ = ["Receiver"]

_PATH = "/v1/traces"
_SECONDS = 10.0
_PAUSES = (1.0, 2.0, 4.0)
_AGAIN = frozenset({429, 502, 503, 504})
"""The statuses after which the protocol lets a client send again."""


class Receiver:
    """What takes spans: a collector, or a program that speaks OTLP over HTTP.

    Headers are those of the variable OTEL_EXPORTER_OTLP_HEADERS (``name=value,name=value``), and the name of the
    service is that of OTEL_SERVICE_NAME, ``runstream`` without it.

    Args:
        url: Where it is: http:// or https://; ``/v1/traces`` is added if it does not end with it.

    Raises:
        ConfigurationError: It is no such URL, or a header is none.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ConfigurationError(f"{shown(url)} is no receiver: pass otlp:http://HOST:4318, or https://")
        path = parts.path.rstrip("/")
        self.url = parts._replace(path=path if path.endswith(_PATH) else path + _PATH, fragment="").geturl()
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": f"runstream/{version('runstream')}",
            **_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")),
        }
        self._service = os.environ.get("OTEL_SERVICE_NAME") or "runstream"

    def send(self, spans: Iterable[Span]) -> None:
        """Send spans, again where it could not take them now. When this returns, it has taken all.

        Args:
            spans: The spans.

        Raises:
            StoreUnavailable: It gave no answer, or cannot take them now; whether it has some is not known.
            ConfigurationError: It refuses them.
        """
        body = gzip.compress(self._request(spans).SerializeToString())
        for pause in (*_PAUSES, None):
            try:
                answer = self._post(body)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in _AGAIN:
                    raise self._refused(f"{error.code} {error.reason}") from error
                why: Exception = error
            except (OSError, EOFError) as error:
                why = error
            else:
                self._check(answer)
                return
            if pause is not None:
                time.sleep(pause)
        raise StoreUnavailable(
            f"{self.url} does not take spans: {why}; the same command goes on from there"
        ) from why

    def _request(self, spans: Iterable[Span]) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        of_resource.resource.attributes.extend(_attributes({"service.name": self._service}))
        of_scope = of_resource.scope_spans.add()
        of_scope.scope.name, of_scope.scope.version = "runstream", version("runstream")
        of_scope.spans.extend(map(_otlp, spans))
        return request

    def _post(self, body: bytes) -> bytes:
        request = urllib.request.Request(self.url, body, self._headers, method="POST")  # noqa: S310 - http or https
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
            answer: bytes = response.read()
        return answer

    def _check(self, answer: bytes) -> None:
        try:
            partial = ExportTraceServiceResponse.FromString(answer).partial_success
        except DecodeError:  # a proxy's own words; the status says that it was taken
            return
        if partial.rejected_spans:
            raise self._refused(f"{partial.rejected_spans} spans: {partial.error_message}")

    def _refused(self, why: str) -> ConfigurationError:
        status = "" if not why.startswith("4") else "; see OTEL_EXPORTER_OTLP_HEADERS for what it may ask for"
        return ConfigurationError(f"{self.url} refuses {why:.500}{status}")


def _otlp(span: Span) -> OtlpSpan:
    made = OtlpSpan(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=OtlpSpan.SPAN_KIND_CLIENT if span.is_client else OtlpSpan.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        attributes=_attributes(span.attributes),
        dropped_events_count=span.left_out,
    )
    for event in span.events:
        made.events.add(time_unix_nano=event.at, name=event.name, attributes=_attributes(event.attributes))
    for link in span.links:
        made.links.add(trace_id=link.trace_id, span_id=link.span_id, attributes=_attributes(link.attributes))
    if span.error is not None:
        made.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=_utf8(span.error)))
    return made


def _attributes(values: Attributes | Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_value(value)) for name, value in values.items()]


def _value(value: str | float | bool) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=_utf8(value))


def _utf8(text: str) -> str:
    """A text that protobuf takes: a lone surrogate is a question mark."""
    return text.encode(errors="replace").decode()


def _headers(text: str) -> dict[str, str]:
    found = {}
    for pair in filter(None, (one.strip() for one in text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip().isascii():
            raise ConfigurationError("OTEL_EXPORTER_OTLP_HEADERS: it is name=value,name=value")
        found[name.strip()] = unquote(value.strip())
    return found
