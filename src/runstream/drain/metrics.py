"""The metrics of a worker and of its namespace, for Prometheus.

Needs prometheus_client, the extra ``metrics``. The worker counts; this only reads, when it is scraped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any
from wsgiref.types import WSGIApplication

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from runstream.drain.stats import BOUNDS, DrainStats, Timing
from runstream.drain.worker import DrainWorker
from runstream.model.errors import RunstreamError
from runstream.operations.forks import starts_anew
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.admin.status import NamespaceStatus

__all__ = ["DrainCollector", "metrics_app"]

_PREFIX = "runstream_drain"
_EVERY_SECONDS = 5.0
_HELD = (
    "Events that are archived and still in Redis, when this worker's last sweep came by, by what holds them: that"
    " nothing trims them, that the run has no snapshot, a lane without one, a snapshot that does not cover them."
)
_ARCHIVED_AFTER = (
    "Seconds from when a run came due, with its first event or snapshot that is not archived, to when all of it"
    " was."
)
_WAIT_SECONDS = 2.0  # a scrape has ten by default


class DrainCollector(Collector):
    """Collects the metrics of one worker, and of the namespace that it drains, for a prometheus_client registry.

    The namespace is asked at most every 5 seconds. While Redis does not answer within 2 seconds the namespace's
    metrics are left out, and ``runstream_drain_namespace_up`` is 0: an old number would be taken for a new one.

    Args:
        worker: The worker.
        hot: The Redis store that it drains.
        archives: The locations of its sinks.
    """

    def __init__(self, worker: DrainWorker, hot: RunStore[Any, Any], archives: Sequence[str]) -> None:
        self._worker = worker
        namespace = namespace_of(hot)
        self._namespace = namespace.keys.namespace
        self._archives = list(archives)
        self._reader = _Reader(namespace.status)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. Raises nothing for a server that is away."""
        stats = self._worker.progress
        info = {"worker": self._worker.name, "namespace": self._namespace}
        yield InfoMetricFamily(_PREFIX, "Which worker this is, and what it drains.", value=info)
        yield from _done(stats)
        yield from _health(stats, self._archives)
        found = self._reader.latest()
        up = "1 if Redis said how the namespace stands, 0 if not."
        yield _of_namespace(self._namespace, "namespace_up", up, found is not None)
        if found is not None:
            for name, help_text, value in _standing(found):
                yield _of_namespace(self._namespace, name, help_text, value)


def metrics_app(worker: DrainWorker, hot: RunStore[Any, Any], archives: Sequence[str]) -> WSGIApplication:
    """A WSGI application that gives the metrics of a worker and of this process."""
    registry = CollectorRegistry()
    registry.register(DrainCollector(worker, hot, archives))
    ProcessCollector(registry=registry)
    app: WSGIApplication = make_wsgi_app(registry)
    return app


def _done(stats: DrainStats) -> Iterator[Metric]:
    report = stats.report
    for name, help_text, value in (
        ("runs", "Runs of which all that was there has been archived; a run counts each time.", report.runs),
        ("events", "Events archived and proven.", report.events),
        ("bytes", "Bytes of the events archived, as Redis holds them.", stats.bytes),
        ("batches", "Batches settled: one transaction in each archive.", stats.batches),
        ("snapshots", "Snapshots archived and proven.", report.snapshots),
        ("quarantined", "Records that do not read, kept aside in the archives.", report.quarantined),
        ("parkings", "Times that a run was parked; a run counts each time.", report.parked),
        ("trimmed", "Entries trimmed from Redis.", report.trimmed),
        ("retired", "Runs retired: taken out of Redis but for a tombstone.", report.retired),
        ("forgotten", "Tombstones of retired runs taken out of Redis.", report.forgotten),
        ("retries", "Attempts at an archive or at Redis that failed and were repeated.", stats.retries),
    ):
        yield CounterMetricFamily(f"{_PREFIX}_{name}", help_text, value=value)


def _health(stats: DrainStats, archives: Sequence[str]) -> Iterator[Metric]:
    writes = HistogramMetricFamily(
        f"{_PREFIX}_archive_write_seconds", "Seconds that writes to an archive took.", labels=["archive"]
    )
    fails = stats.failing.copy()  # the worker goes on changing it
    failing = GaugeMetricFamily(
        f"{_PREFIX}_archive_failing", "1 while an archive fails and is tried again, else 0.", labels=["archive"]
    )
    for location in archives:
        timing = stats.writes.get(location, Timing())
        writes.add_metric([location], _buckets(timing), timing.seconds)
        failing.add_metric([location], float(location in fails))
    yield writes
    yield failing
    lag = HistogramMetricFamily(f"{_PREFIX}_archived_after_seconds", _ARCHIVED_AFTER)
    lag.add_metric([], _buckets(stats.archived_after), stats.archived_after.seconds)
    yield lag
    yield _gauge("redis_failing", "1 while Redis fails and is tried again, else 0.", "redis" in fails)
    if stats.held is not None:
        held = GaugeMetricFamily(f"{_PREFIX}_held_events", _HELD, labels=["by"])
        for by in ("trim", "no snapshot", "lane", "snapshot"):
            held.add_metric([by], stats.held.get(by, 0))
        yield held
    age = time.monotonic() - stats.last_beat
    yield _gauge("last_beat_age_seconds", "Seconds since the loop's last sign of life.", age)


def _buckets(timing: Timing) -> list[tuple[str, float]]:
    """As Prometheus has them: how many took up to a bound, those of the lower bounds included."""
    bounds = map(floatToGoString, (*BOUNDS, float("inf")))
    return list(zip(bounds, accumulate(timing.counts), strict=True))


def _standing(found: NamespaceStatus) -> Iterator[tuple[str, str, float]]:
    """How a namespace stands: names, help texts and values."""
    yield "lag_events", "Events that are not archived, of runs due, claimed or parked.", found.backlog_events
    oldest = "Seconds that the run that came due first has waited; 0 if none is due."
    yield "lag_seconds", oldest, found.oldest_due_seconds
    yield "runs_listed", "Runs that are listed, those that were retired included.", found.runs
    yield "runs_pending", "Runs that wait for a worker now.", found.due
    yield "runs_later", "Runs that come due later: claimed by a worker, or parked.", found.later
    yield "runs_parked", "Runs set aside for a person to inspect.", len(found.parked)
    living = sum(map(found.is_living, found.workers))
    yield "workers", "Workers that said within the last minute that they live.", living
    undrained = "Partitions with runs that are due and no living worker, or only ones that wait for archives."
    yield "partitions_without_worker", undrained, len(found.undrained)
    without = "Required archives that no living worker of a partition has."
    yield "archives_without_worker", without, len(found.without_worker)
    yield "damaged_keys", "Keys of partitions that are of another type than they must be.", len(found.damaged)
    if found.used_memory_bytes is not None:
        yield "redis_memory_bytes", "The server's memory in use, whoever uses it.", found.used_memory_bytes
    if found.max_memory_bytes is not None:
        limit = "The server's maxmemory; there is no such metric where it has none."
        yield "redis_memory_limit_bytes", limit, found.max_memory_bytes


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", help_text, value=float(value))


def _of_namespace(namespace: str, name: str, help_text: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", help_text, labels=["namespace"])
    gauge.add_metric([namespace], float(value))
    return gauge


class _Reader:
    """Loads the status in a thread, so that a scrape never waits for a server that hangs."""

    def __init__(self, read: Callable[[], NamespaceStatus]) -> None:
        self._read = read
        self._start_anew()
        starts_anew(self)

    def _start_anew(self) -> None:
        """Have asked nothing: the thread that a question of the parent's waits for is not here."""
        self._lock = threading.Lock()
        self._question: _Question | None = None

    def latest(self) -> NamespaceStatus | None:
        """The status as it was loaded in the last seconds; None if it could not be."""
        with self._lock:
            question = self._question
            if question is None or question.is_old():
                question = self._question = _Question(self._read)
        question.is_answered.wait(_WAIT_SECONDS)
        return question.answer


class _Question:
    """One load of the status, under way or answered; the answer is None where there is none."""

    def __init__(self, read: Callable[[], NamespaceStatus]) -> None:
        self.answer: NamespaceStatus | None = None
        self.is_answered = threading.Event()
        self._read = read
        self._asked_at = time.monotonic()
        # daemon: a process that ends does not wait for it
        threading.Thread(target=self._ask, daemon=True).start()

    def is_old(self) -> bool:
        """Whether it is time to ask again; there is never more than one question under way."""
        return self.is_answered.is_set() and time.monotonic() - self._asked_at > _EVERY_SECONDS

    def _ask(self) -> None:
        try:
            self.answer = self._read()
        except RunstreamError:
            pass  # away, or closed: there is no answer
        finally:
            self.is_answered.set()
