"""Try what a server gives: append to a run of a namespace that is there for this alone, and remove it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.model.errors import RunstreamError
from runstream.model.events import EventKind, PAEvent, create_event
from runstream.model.identifiers import random_token
from runstream.operations.arguments import AppendOptions
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.keys import Keys, TrialNamespace, namespace_config
from runstream.stores.redis.operations.client.open_namespace import open_namespace
from runstream.stores.redis.operations.redis_operations import RedisOperations
from runstream.stores.redis.session.session import Session

__all__ = ["Trial"]

_RUN = "trial"
_MOST_SECONDS = 3.0  # for the appends that are timed: at a distant server there are fewer
_LIFE_MILLISECONDS = 600_000  # of what is left if the process is killed
_TEXT = "x" * 300


class Trial:
    """Appends to a namespace that is there for this alone.

    Args:
        beside: The namespace whose rights it is to have: the patterns of an ACL for keys of this match its own.
        longest_wait: For how long the server may wait until a write is as durable as asked for, in seconds.
        is_there: Whether the server that is tried has the keys with a hash tag.
        is_fake: Whether the server is fakeredis.
    """

    def __init__(
        self, beside: str, longest_wait: float, is_there: Callable[[str], bool], *, is_fake: bool
    ) -> None:
        self.pattern = f"{{{TrialNamespace(beside, '')}*"
        """What the names of the keys of such trials match."""
        names = (TrialNamespace(beside, random_token()) for _ in count())
        self._session: Session[PAEvent, Any] = Session.make(
            Codec(None, None, plain_data, DEFAULT_MAX_EVENT_BYTES),
            next(name for name in names if is_there(Keys(name, 1).partitions[0].tag)),
            1,
            "primary",
            require_lease=False,
            resend_lost=False,
            longest_wait=longest_wait,
        )
        self._is_fake = is_fake
        self._operations = RedisOperations(self._session)
        self._seq = 0

    @property
    def tag(self) -> str:
        """The hash tag of all that it appends."""
        return Keys(self._session.namespace, 1).partitions[0].tag

    def is_allowed(self) -> Operation[bool]:
        """Whether the user may use its keys."""
        (reply,) = yield Exchange([(b"EXISTS", self._keys()[0])], permissive=True)
        return not isinstance(reply, Refusal)

    def open(self) -> Operation[None]:
        """Open the namespace as a store does, and append once: scripts are there from then on.

        Raises what opening a store and appending raise.
        """
        yield from open_namespace(self._session, is_fake=self._is_fake)
        yield from self._append("primary")
        yield Exchange([(b"PEXPIRE", key, _LIFE_MILLISECONDS) for key in self._keys()], permissive=True)

    def levels(self, wanted: Sequence[str]) -> Operation[Mapping[str, str]]:
        """Why the server does not give a durability, by the durability; "": it does."""
        found = {}
        for level in wanted:
            try:
                yield from self._append(level)
            except RunstreamError as error:
                found[level] = str(error)
            else:
                found[level] = ""
        return found

    def times(self, samples: int, durability: str) -> Operation[Sequence[float]]:
        """How many seconds each of so many appends takes, or of fewer, where they take long."""
        took: list[float] = []
        until = time.monotonic() + _MOST_SECONDS
        while len(took) < samples and (not took or time.monotonic() < until):
            began = time.perf_counter()
            yield from self._append(durability)
            took.append(time.perf_counter() - began)
        return took

    def remove(self) -> Operation[None]:
        """Remove the namespace."""
        yield Exchange([(b"DEL", key) for key in self._keys()])  # a cluster has them in two slots

    def _append(self, durability: str) -> Operation[Any]:
        self._seq += 1
        event = create_event(_RUN, EventKind.TOOL_RESULT, seq=self._seq, text=_TEXT)
        return self._operations.append(_RUN, [event], AppendOptions(durability=durability))

    def _keys(self) -> Sequence[str]:
        """All keys that it may have made."""
        namespace = self._session.namespace
        return namespace_config(namespace), *Keys(namespace, 1).run(_RUN).of_append
