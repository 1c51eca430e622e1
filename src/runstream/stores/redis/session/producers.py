"""The producers of one store object: identities under which one call at a time appends."""

from __future__ import annotations

import secrets

from runstream.operations.forks import starts_anew

__all__ = ["Producer", "ProducerPool"]


class Producer:
    """An identity under which one call at a time appends. It numbers its batches."""

    __slots__ = ("name", "number")

    def __init__(self) -> None:
        self.name = secrets.token_hex(9)
        self.number = 0


class ProducerPool:
    """The free producers of one store object. Safe between threads; a fork draws new ones.

    A call that gets no reply does not give its producer back: its batch is sent again under the same number
    (see :mod:`~runstream.stores.redis.session.in_flight`), and no other batch is sent under it.
    """

    def __init__(self) -> None:
        self._free: dict[str, Producer] = {}  # by the run that each has appended to last
        starts_anew(self)

    def _start_anew(self) -> None:
        """Draw new producers: those that are free belong to the parent."""
        self._free = {}

    def take(self, run_id: str) -> Producer:
        """A producer for one call, with the number of its next batch.

        The one that has appended to the run last, if it is free: the server takes its next append the fast way.
        """
        producer = self._free.pop(run_id, None)  # each is one step, so threads need no lock
        if producer is None:
            try:
                _, producer = self._free.popitem()
            except KeyError:
                producer = Producer()
        producer.number += 1
        return producer

    def give_back(self, producer: Producer, run_id: str) -> None:
        """Return a producer whose call, an append to that run, has a known outcome."""
        other = self._free.pop(run_id, None)
        self._free[run_id] = producer
        if other is not None:
            self._free[other.name] = other
