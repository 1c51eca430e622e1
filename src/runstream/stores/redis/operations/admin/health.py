"""How the archiving of a namespace stands, in numbers alone, for whoever may not know its runs."""

from __future__ import annotations

from runstream.model.results import ArchivingHealth
from runstream.operations.operation import Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.admin.alarms import alarms_of
from runstream.stores.redis.operations.admin.status import namespace_status

__all__ = ["archiving_health"]


def archiving_health(keys: Keys, lag_seconds: float) -> Operation[ArchivingHealth]:
    """How the archiving of a namespace stands.

    Args:
        keys: The namespace's keys.
        lag_seconds: For how long a run may be due.
    """
    status = yield from namespace_status(keys)
    return ArchivingHealth(
        workers=sum(map(status.is_living, status.workers)),
        due=status.due,
        backlog_events=status.backlog_events,
        oldest_due_seconds=status.oldest_due_seconds,
        alarms=sorted({alarm.name for alarm in alarms_of(status, lag_seconds)}),
    )
