"""The HTTP endpoints of a worker: ``/metrics`` for Prometheus, ``/health`` for a container platform."""

from __future__ import annotations

import importlib
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from runstream.codec.json_facts import iso_time
from runstream.drain import DrainWorker
from runstream.drain.stats import DrainStats
from runstream.model.errors import ConfigurationError
from runstream.stores.protocol import RunStore

__all__ = ["Health", "load_metrics_app", "serving"]

_CLIENT_SECONDS = 10.0  # after which one that sends nothing is dropped


class Health:
    """Whether a worker's loop lives: its last sign of life is younger than ``stuck_after`` seconds.

    A worker that waits for a full disk or for Redis lives, and says what it waits for. ``has_ended`` is set by
    whoever ran the loop.
    """

    def __init__(self, name: str, stats: DrainStats, stuck_after: float) -> None:
        self.has_ended = False
        self._name = name
        self._stats = stats
        self._stuck_after = stuck_after

    def inspect(self) -> tuple[bool, dict[str, Any]]:
        """Whether it lives, and its state for JSON."""
        age = time.monotonic() - self._stats.last_beat
        failing = self._stats.failing.copy()  # the worker goes on changing it
        is_alive = not self.has_ended and age < self._stuck_after
        if self.has_ended:
            status = "ended"
        elif not is_alive:
            status = "stuck"
        else:
            status = "waiting" if failing else "ok"
        return is_alive, {
            "status": status,
            "worker": self._name,
            "last_beat_age_seconds": round(age, 3),
            "stuck_after_seconds": self._stuck_after,
            "events": self._stats.report.events,
            "failing": {
                what: {"since": iso_time(failure.since), "error": failure.error}
                for what, failure in failing.items()
            },
        }


def load_metrics_app(worker: DrainWorker, hot: RunStore[Any, Any], archives: Sequence[str]) -> WSGIApplication:
    """The application for ``/metrics``. Raises ConfigurationError without the extra ``metrics``."""
    try:
        metrics = importlib.import_module("runstream.drain.metrics")
    except ImportError as error:
        raise ConfigurationError(
            "--metrics-port needs prometheus_client; run: pip install 'runstream[metrics]'"
        ) from error
    app: WSGIApplication = metrics.metrics_app(worker, hot, archives)
    return app


@contextmanager
def serving(host: str, port: int, metrics: WSGIApplication, health: Health) -> Iterator[str]:
    """Serve both at ``host`` and ``port`` (0: one that is free) while this is entered; gives the URL.

    Raises ConfigurationError where nobody can listen.
    """

    def route(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "GET":
            return _answer(start, "405 Method Not Allowed", {"error": "use GET"})
        if path == "/metrics":
            return metrics(environ, start)
        if path == "/health":
            is_alive, facts = health.inspect()
            return _answer(start, "200 OK" if is_alive else "503 Service Unavailable", facts)
        return _answer(start, "404 Not Found", {"error": "there are /metrics and /health"})

    with _listen(host, port) as server:
        server.set_app(route)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _answer(start: StartResponse, status: str, facts: dict[str, Any]) -> Iterable[bytes]:
    body = json.dumps(facts, indent=2).encode() + b"\n"
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _listen(host: str, port: int) -> _Server:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        kind = type("_ServerOfFamily", (_Server,), {"address_family": family})
        server: _Server = kind(address[:2], _Handler)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"cannot listen at {host} port {port} for /metrics and /health: {error}; see --metrics-host and"
            " --metrics-port"
        ) from error
    return server


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: a scrape that waits for Redis keeps no health check waiting."""

    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # not that of HTTPServer, which asks the DNS for the host's name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class calls it
        """A scrape is no news either."""
