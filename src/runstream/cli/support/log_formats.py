"""Log to stderr: a line per record, for people and grep, or for programs that collect logs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import typer

from runstream.cli.support.exit_codes import exit_code_of
from runstream.cli.support.output import error_text, printable
from runstream.codec.json_facts import iso_time
from runstream.model.errors import RunstreamError

__all__ = ["LogFormat", "LogLevel", "logging_to_stderr"]

LogFormat: TypeAlias = Literal["text", "json"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def logging_to_stderr(log_format: LogFormat, level: LogLevel) -> Iterator[dict[str, Any]]:
    """Log what the library logs from ``level`` on to stderr, a line each.

    Gives the fields that every JSON line has besides its record's own; more may be put there. An error of ours
    that leaves this is the last such line, and becomes the exit code that it has everywhere; in text it goes on,
    to the one line with which every command fails.
    """
    fields: dict[str, Any] = {}
    logger = logging.getLogger("runstream")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine(fields) if log_format == "json" else _TextLine())
    former = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        yield fields
    except RunstreamError as error:
        if log_format == "text":
            raise
        logger.error("%s", error_text(error), exc_info=logger.isEnabledFor(logging.DEBUG))  # noqa: TRY400  only on request
        raise typer.Exit(exit_code_of(error)) from error
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former)


class _TextLine(logging.Formatter):
    """``time=… level=… message="…"``: grep finds it, and a program can take it apart."""

    def format(self, record: logging.LogRecord) -> str:
        text = _quoted(record.getMessage())
        line = f"time={iso_time(record.created)} level={record.levelname.lower()} message={text}"
        if record.exc_info:
            line += f" exception={_quoted(self.formatException(record.exc_info))}"
        return line


class _JsonLine(logging.Formatter):
    """An object with ``time``, ``level``, ``message``, the worker's fields and the record's own (``extra``)."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": iso_time(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = {**line, **self._fields, **extra, **line}  # whatever a field is called, these three stay
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _quoted(text: str) -> str:
    return '"' + printable(text).replace('"', '\\"') + '"'
