"""The span of OpenTelemetry that a program is in, as W3C Trace Context writes it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from runstream.model.errors import ConfigurationError

__all__ = ["traceparent_source"]


def traceparent_source(*, wanted: bool) -> Callable[[], str | None] | None:
    """What gives the ``traceparent`` of the span that the caller is in; None where it is not wanted.

    Raises:
        ConfigurationError: It is wanted, and OpenTelemetry's API is not installed.
    """
    if not wanted:
        return None
    try:
        trace: Any = import_module("opentelemetry.trace")
    except ImportError as error:
        raise ConfigurationError(
            "trace_context=True needs opentelemetry-api; run: pip install 'runstream[otel]'"
        ) from error

    def traceparent() -> str | None:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 0xFF:02x}"

    return traceparent
