"""What both savers share: what they hold, and what needs no store."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Mapping
from typing import Any, Self, cast

from runstream.connect import ARCHIVE_SCHEMES, SERVER_SCHEMES
from runstream.integrations.langgraph.context import Context
from runstream.integrations.langgraph.known import Known
from runstream.integrations.langgraph.upstream import BaseCheckpointSaver, SerializerProtocol
from runstream.integrations.langgraph.values import Values
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import random_token, shown
from runstream.operations.arguments import LeaseRequest
from runstream.operations.interface import KeepsSnapshots, StoreOperations

__all__ = ["CACHE_BYTES", "SaverBase", "lease_request", "own_options"]

CACHE_BYTES = 64 * 2**20
"""How many bytes of the latest checkpoints a saver holds, about, and as many of messages, if nothing is said."""
_NAMESPACE = "langgraph"
_MAX_EVENT_BYTES = 64 * 2**20
"""How large a checkpoint may be in a store that is opened for a saver: states may hold whole documents."""
_SERVERS = (*SERVER_SCHEMES, "embedded", "fake")


class SaverBase(BaseCheckpointSaver[Any]):
    """A checkpointer over a store.

    Args:
        store: The store; its operations are the same, sync or async.
        serde: LangGraph's serializer; None: its own.
        cache_bytes: How many bytes of the latest checkpoints to hold, about, and as many of messages.
    """

    def __init__(self, store: Any, serde: SerializerProtocol | None, cache_bytes: int) -> None:
        super().__init__(serde=serde)
        if isinstance(cache_bytes, bool) or not isinstance(cache_bytes, int) or cache_bytes < 0:
            raise ConfigurationError(f"cache_bytes={shown(cache_bytes)}: pass a whole number of bytes, 0 or more")
        # its own writer of the store: what others save through that is a conflict here
        operations: StoreOperations[Any, Any] = store._operations.for_one_writer()
        reads_archived = isinstance(operations, KeepsSnapshots)
        self._context = Context(operations, Values(self.serde, cache_bytes), Known(cache_bytes), reads_archived)

    def get_next_version(self, current: int | str | None, channel: None) -> int | str:  # noqa: ARG002 - LangGraph's
        """The version after one: whole numbers; for a thread that another saver began, texts as that has them."""
        if not isinstance(current, str):
            return 1 if current is None else int(current) + 1
        return f"{int(current.partition('.')[0]) + 1:032}.{random.random():016}"  # noqa: S311 - no secret

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """A saver whose serializer takes further classes, over the same store and with what this one knows."""
        clone = cast("Self", super().with_allowlist(extra_allowlist))
        if clone is not self:
            values = Values(clone.serde, self._context.values.held_bytes)
            clone._context = self._context._replace(values=values)
        return clone


def lease_request(thread_id: str, owner: str | None, ttl: float, wait: float) -> LeaseRequest:
    """The lease on a whole thread that is asked for; without an owner it is nobody else's."""
    return LeaseRequest(thread_id, f"langgraph-{random_token()}" if owner is None else owner, None, ttl, wait)


def own_options(url: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a store that is opened for a saver: what neither these nor the URL say is a saver's.

    That is a namespace of its own on a server, no history of snapshots in a file, and how large a checkpoint may
    be.
    """
    scheme, _, rest = str(os.environ.get("RUNSTREAM_URL", "") if url is None else url).partition(":")
    query = rest.partition("?")[2]
    own: dict[str, Any] = {"max_event_bytes": _MAX_EVENT_BYTES}
    if scheme in _SERVERS:
        own["namespace"] = _NAMESPACE
    elif scheme in ARCHIVE_SCHEMES:
        own["keep_snapshots"] = 0  # each checkpoint is an event, with all that it is made of
    unsaid = {name: value for name, value in own.items() if f"{name}=" not in query}
    return {"state_type": dict, **unsaid, **options}
