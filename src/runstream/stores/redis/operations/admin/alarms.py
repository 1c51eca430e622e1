"""The alarms of a namespace: what of its status an operator has to act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runstream.stores.redis.operations.admin.status import NamespaceStatus

__all__ = ["Alarm", "alarms_of"]


class Alarm(NamedTuple):
    """An alarm: its name, which stays the same, and what is wrong, in words."""

    name: str
    reason: str


def alarms_of(status: NamespaceStatus, most_seconds: float) -> Iterator[Alarm]:
    """The alarms of a namespace.

    Args:
        status: Its status.
        most_seconds: For how long a run may be due.
    """
    if status.undrained:
        yield Alarm("no-worker", f"runs are due{_where(status)}, and no worker reports that it drains them")
    if status.oldest_due_seconds > most_seconds:
        yield Alarm(
            "backlog", f"the oldest due run waits for {status.oldest_due_seconds:.1f} s, over {most_seconds:g} s"
        )
    for location in status.without_worker.values():
        yield Alarm("archive", f"{location} is required, and no worker has it: nothing leaves Redis meanwhile")
    if status.parked:
        yield Alarm("parked", f"{len(status.parked)} runs are parked: each has its reason")
    if status.damaged:
        yield Alarm("damaged", f"{len(status.damaged)} keys of partitions are damaged")


def _where(status: NamespaceStatus) -> str:
    if not any(map(status.is_living, status.workers)):
        return ""
    numbers = ", ".join(map(str, status.undrained))
    return f" in partition {numbers}" if len(status.undrained) == 1 else f" in partitions {numbers}"
