"""The worker's heartbeat: a thread that extends the claims in hand, and reports the worker in Redis.

A batch may take long (a SQLite file may be locked for half a minute), and a claim is not to run out meanwhile.
So this is a thread of its own. It does nothing to the work: a beat that fails, or comes late, costs at most that
another worker does the same work once more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from runstream.model.errors import RunstreamError
from runstream.operations.forks import starts_anew
from runstream.stores.redis.namespace import Namespace

__all__ = ["Heartbeat"]

_log = logging.getLogger("runstream.drain")

_SHORTEST_SECONDS = 0.02
_BEATS_PER_CLAIM = 3
_ATTEMPTS_PER_BEAT = 4  # while the server cannot be reached
_REPORT_SECONDS = 5.0


class Heartbeat:
    """Extends the claims in hand, three times in ``claim_seconds``, and reports the worker now and then.

    Both go through a store that others close, so the thread is gone when ``stop`` returns. It is a daemon: a
    process that ends does not wait for it. A forked process has none until it starts its own.

    Args:
        namespace: The namespace that is drained.
        name: Gives the worker's name, which is another after a fork.
        claim_seconds: How long a claim lasts.
        facts: What the worker reports of itself.
    """

    def __init__(
        self,
        namespace: Namespace,
        name: Callable[[], str],
        claim_seconds: float,
        facts: Callable[[], Mapping[str, object]],
    ) -> None:
        self._namespace = namespace.once  # what fails is done at the next beat
        self._name = name
        self._claim_seconds = claim_seconds
        # a claim of no length is for nobody to hold
        self._every_seconds = (
            max(_SHORTEST_SECONDS, claim_seconds / _BEATS_PER_CLAIM) if claim_seconds else math.inf
        )
        self._facts = facts
        self._start_anew()
        starts_anew(self)

    def _start_anew(self) -> None:
        """Have no thread and no claim in hand."""
        self.still = threading.RLock()
        """Whoever holds it knows that no claim is being extended: held where claims are given up, which an
        extension in flight would undo, so that what came in meanwhile would wait as if it were claimed."""
        self._in_hand: Callable[[], Sequence[str]] | None = None
        self._thread: threading.Thread | None = None
        self._stirred = threading.Event()
        self._is_ending = False
        self._report_at = 0.0
        self._has_reported = False

    def start(self, *, report_in: float = _REPORT_SECONDS) -> None:
        """Start the thread, unless it runs; its first report comes in ``report_in`` seconds."""
        if self._thread is None:
            self._report_at = time.monotonic() + report_in
            self._thread = threading.Thread(target=self._run, name="runstream-heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, and take the report back.

        A reply that is on its way to the thread is waited for, for as long as its client does.
        """
        if self._thread is None:
            return
        self._is_ending = True
        self._stirred.set()
        self._thread.join()
        if self._has_reported:
            with suppress(RunstreamError):  # forgotten after a day
                self._namespace.sign_off(self._name())
        self._start_anew()

    @contextmanager
    def holding(self, in_hand: Callable[[], Sequence[str]]) -> Iterator[None]:
        """Extend the claims on the runs whose ids ``in_hand`` gives; it is called at every beat."""
        self.start()
        self._in_hand = in_hand
        try:
            yield
        finally:
            with self.still:
                self._in_hand = None

    def report_now(self) -> None:
        """Report at once, if the thread runs."""
        self._report_at = 0.0
        self._stirred.set()

    def _run(self) -> None:
        extend_at = time.monotonic() + self._every_seconds
        while not self._is_ending:
            self._stirred.wait(max(0.0, min(extend_at, self._report_at) - time.monotonic()))
            self._stirred.clear()
            now = time.monotonic()
            if now >= extend_at and not self._is_ending:
                with self.still:
                    is_held = self._try(self._extend)
                extend_at = now + self._every_seconds / (1 if is_held else _ATTEMPTS_PER_BEAT)
            if now >= self._report_at and not self._is_ending:
                self._report_at = now + _REPORT_SECONDS
                self._try(self._report)

    def _extend(self) -> None:
        in_hand = () if self._in_hand is None else self._in_hand()
        if in_hand:
            self._namespace.extend(in_hand, self._claim_seconds)

    def _report(self) -> None:
        self._has_reported = True
        self._namespace.report(self._name(), self._facts())

    def _try(self, chore: Callable[[], None]) -> bool:
        """Do a chore. Returns False if it failed: it is done at the next beat."""
        try:
            chore()
        except RunstreamError as error:
            _log.debug("a heartbeat failed and is tried again: %s", error)
        except Exception:  # noqa: BLE001 - without a heartbeat each long batch would be done twice
            _log.warning("a heartbeat failed in a way that is not foreseen; it goes on", exc_info=True)
        else:
            return True
        return False
