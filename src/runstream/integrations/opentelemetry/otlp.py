"""Spans in OpenTelemetry's own protocol, OTLP over HTTP, with its official protobuf classes.

The classes alone, and not the SDK with its exporter: the SDK makes spans that begin now and have random ids, and
runs threads of its own; here spans are of what was, with ids that are given, and are to be acknowledged.

Source: https://opentelemetry.io/docs/specs/otlp/ (OTLP/HTTP, binary protobuf).
"""

from __future__ import annotations

import gzip
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import Message
from http.client import HTTPException, IncompleteRead
from importlib.metadata import version
from time import sleep
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from google.protobuf.json_format import Parse, ParseError
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

__all__ = ["EncodedSpan", "Receiver", "encoded"]

EncodedSpan: TypeAlias = OtlpSpan
"""A span as the protocol has it."""

_PATH = "/v1/traces"
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_SECONDS = 10.0
_PAUSES = (1.0, 2.0, 4.0)
_LONGEST_PAUSE = 30.0
"""In seconds; a receiver that wants a longer one (``Retry-After``) is left for the next command."""

_AGAIN = frozenset({429, 502, 503, 504})
"""The statuses after which the protocol lets a client send again."""

_TOO_LARGE = 413
_ITS_PORT = "OTLP over HTTP has port 4318, not 4317, which is that of gRPC"
_AS_THIS = "pass otlp:http://HOST:4318, or https://"
_HEADER_NAME = re.compile(r"[!#-'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")


class Receiver:
    """What takes spans: a collector, or a program that speaks OTLP over HTTP.

    Headers are those of the variable OTEL_EXPORTER_OTLP_HEADERS (``name=value,name=value``), and the name of the
    service is that of OTEL_SERVICE_NAME, ``runstream`` without it.

    Args:
        url: Where it is: http:// or https://; ``/v1/traces`` is added if it does not end with it.

    Attributes:
        name: The URL without its query, which may hold a secret: for people, and for notes.

    Raises:
        ConfigurationError: It is no such URL, or a header is none.
    """

    def __init__(self, url: str) -> None:
        parts = _parts(url)
        path = parts.path.rstrip("/")
        parts = parts._replace(path=path if path.endswith(_PATH) else path + _PATH, fragment="")
        self._url, self.name = parts.geturl(), _named(parts)
        self._headers = {
            "Content-Type": _PROTOBUF,
            "Content-Encoding": "gzip",
            "User-Agent": f"runstream/{version('runstream')}",
            **_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")),
        }
        self._service = os.environ.get("OTEL_SERVICE_NAME") or "runstream"
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, spans: Sequence[EncodedSpan]) -> list[str]:
        """Send spans, again where it could not take them now.

        When this returns, it has taken all, or said that it will never take some. Those that are too many for it
        are sent by parts.

        Args:
            spans: The spans.

        Returns:
            What it does not take, and why; empty where it has all.

        Raises:
            StoreUnavailable: It gave no answer, or cannot take them now; whether it has some is not known.
            ConfigurationError: It refuses them, or is no receiver.
        """
        body = gzip.compress(self._request(spans).SerializeToString())
        hint = f"; {_ITS_PORT}" if urlsplit(self._url).port == 4317 else ""
        for pause in (*_PAUSES, None):
            wait = pause
            try:
                return self._rejected(*self._post(body))
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == _TOO_LARGE:
                    return self._by_parts(spans)
                if error.code not in _AGAIN:
                    raise self._refused(error) from error
                why: Exception = error
                asked = error.headers.get("Retry-After")
                wait = None if pause is None else _pause(asked, pause)
                if wait is None and asked:
                    hint = f" (Retry-After: {asked:.40})"
            except (OSError, EOFError, IncompleteRead) as error:
                why = error
            except HTTPException as error:
                raise ConfigurationError(f"{self.name} does not speak HTTP: {_ITS_PORT}") from error
            if wait is None:
                break
            sleep(wait)
        raise StoreUnavailable(
            f"{self.name} does not take spans: {why}{hint}; the same command goes on from there"
        ) from why

    def _by_parts(self, spans: Sequence[EncodedSpan]) -> list[str]:
        if len(spans) > 1:
            middle = len(spans) // 2
            return [*self.send(spans[:middle]), *self.send(spans[middle:])]
        return [f"1 span: {spans[0].name!r:.80} of {spans[0].ByteSize():,} bytes is too large for it"]

    def _request(self, spans: Sequence[EncodedSpan]) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        of_resource.resource.attributes.extend(_attributes({"service.name": self._service}))
        of_scope = of_resource.scope_spans.add()
        of_scope.scope.name, of_scope.scope.version = "runstream", version("runstream")
        of_scope.spans.extend(spans)
        return request

    def _post(self, body: bytes) -> tuple[Message, bytes]:
        request = urllib.request.Request(self._url, body, self._headers, method="POST")  # noqa: S310 - http or https
        with self._opener.open(request, timeout=_SECONDS) as response:
            answer: bytes = response.read()
            return response.headers, answer

    def _rejected(self, headers: Message, answer: bytes) -> list[str]:
        """What it does not take of what came, by its answer."""
        has_type, media_type = "Content-Type" in headers, headers.get_content_type()
        if media_type not in {_PROTOBUF, _JSON} and (has_type or answer):
            raise ConfigurationError(
                f"{self.name} does not answer as a receiver of spans does, but with {media_type:.80}: name the URL"
                " that takes OTLP over HTTP; nothing counts as sent"
            )
        try:
            if media_type == _JSON:
                partial = Parse(answer, ExportTraceServiceResponse(), ignore_unknown_fields=True).partial_success
            else:
                partial = ExportTraceServiceResponse.FromString(answer).partial_success
        except (DecodeError, ParseError, ValueError):  # the status says that it was taken
            return []
        if not partial.rejected_spans:
            return []
        return [f"{partial.rejected_spans} spans: {partial.error_message:.500}"]

    def _refused(self, error: urllib.error.HTTPError) -> ConfigurationError:
        why, hint = f"refuses spans: {error.code} {error.reason:.200}", ""
        if 300 <= error.code < 400:
            target = _target(self._url, error.headers.get("Location", ""))
            why = f"does not take spans, but redirects to {target:.200} ({error.code})"
            hint = "; name the URL that takes them"
        elif error.code < 500:
            hint = "; see OTEL_EXPORTER_OTLP_HEADERS for what it may ask for"
        return ConfigurationError(f"{self.name} {why}{hint}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for a refusal: a followed one is a GET without the spans, to which the headers go too."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _parts(url: str) -> SplitResult:
    """The parts of a receiver's URL; the errors show none of it, as it may hold a secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"what follows otlp: is no URL, by its host or port: {_AS_THIS}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ConfigurationError(f"what follows otlp: is no receiver's URL: {_AS_THIS}")
    if "@" in parts.netloc:
        raise ConfigurationError(
            "a receiver's URL has no user and password: put them into OTEL_EXPORTER_OTLP_HEADERS, as"
            " authorization=Basic%20 and the base64 of user:password"
        )
    if not all("!" <= one <= "~" for one in url):
        raise ConfigurationError("a receiver's URL has only printable characters of ASCII: write others as %20")
    return parts


def _named(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _target(url: str, location: str) -> str:
    """What a redirect leads to, for people."""
    try:
        return _named(urlsplit(urljoin(url, location)))
    except ValueError:
        return "what is no URL"


def _pause(asked: str | None, otherwise: float) -> float | None:
    """How long to wait, in seconds, where a receiver may ask for some; None: longer than is waited."""
    if asked is None or not (asked.isascii() and asked.isdigit()) or len(asked) > 9:
        return otherwise
    return None if int(asked) > _LONGEST_PAUSE else max(otherwise, float(asked))


def encoded(span: Span) -> EncodedSpan:
    """A span as the protocol has it.

    Args:
        span: The span.
    """
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
        name, value = name.strip(), unquote(value.strip())
        if not (equals and _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ConfigurationError(
                "OTEL_EXPORTER_OTLP_HEADERS: it is name=value,name=value, each in printable characters of ASCII"
            )
        found[name] = value
    return found
