"""The streams that one blocking connection watches for followers: what to ask for, and whom a reply wakes.

One XREAD asks for all of them, each after the last entry that its followers know. While it blocks nothing can be
added to it, so it blocks briefly for some seconds after a stream has come, and then twice as long each time that
nothing came. Nobody says when a follower ends: a stream leaves when nobody has waited for it for a while, or when
something comes in it that nobody waits for. So followers that are slow to come back cost the others nothing.

Behind the XREAD it is asked where the runs stand in which something came: what both bring is passed on to those
who wait for it, and to nobody who comes later.

What changes without an entry (a run ends by its snapshot, or is lost in a failover) is seen by a look at each run
now and then, once for all of its followers that look at the same: who waits for a person looks at other fields.

Nothing here does any I/O or waits; see :mod:`~runstream.stores.redis.connection.followers_hub` and
:mod:`~runstream.stores.redis.connection.async_followers_hub`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from runstream.operations.operation import Command, News, Wait
from runstream.stores.redis.replies import parse_offset

__all__ = [
    "IDLE_SECONDS",
    "JOIN_SECONDS",
    "Arrivals",
    "Look",
    "Question",
    "RefusedTogether",
    "Waiter",
    "WatchedStreams",
    "commands_of",
    "news_query",
]

JOIN_SECONDS = 0.05
"""How long a new stream waits at most for the XREAD under way to end; for a longer one it is broken off."""

IDLE_SECONDS = 1.0
"""For how long a stream is watched that nobody waits for: its followers are busy with what came, or gone."""

CALM_SECONDS = 5.0
"""For how long the XREADs are short after a stream has come: another one often comes soon after."""

_SHORTEST_BLOCK_SECONDS = 0.01

_FEW = 4
"""So many runs are looked at in the round trip of the XREAD, after it; of more, those in which something came."""

_MAX_SEQUENCE = 2**64 - 1


Look: TypeAlias = tuple[str, Command]
"""A stream, and the command that shows where its run stands."""


def news_query(wait: Wait) -> Command:
    """The command that asks for something new in one stream, and does not wait for it."""
    return (b"XREAD", b"COUNT", 1, b"STREAMS", wait.stream, f"{wait.after}-{_MAX_SEQUENCE}")


class Waiter:
    """One follower that waits.

    Args:
        wait: What it waits for.
        wake: Called once, when the waiting ends.
    """

    __slots__ = ("error", "is_refused", "news", "wait", "wake")

    def __init__(self, wait: Wait, wake: Callable[[], object]) -> None:
        self.wait = wait
        self.wake = wake
        self.news: News | None = None
        """What has come."""
        self.is_refused = False
        """The server refused to wait for this stream and others."""
        self.error: BaseException | None = None
        """Why nobody waits for it any more, if that is something that nobody expected."""


class RefusedTogether(Exception):
    """The server refused to wait for a stream and others: it may be any of them."""


Arrivals: TypeAlias = tuple[str, Sequence[Any]]
"""A stream, and the entries that have come in it."""


def commands_of(looks: Iterable[Look]) -> list[Command]:
    """The commands that some looks send."""
    return [command for _, command in looks]


class Question(NamedTuple):
    """What to send next.

    Attributes:
        commands: A look at each of some runs, one XREAD, and further looks.
        looks: The streams of the first of these runs, each with its look.
        seconds: For how long the XREAD blocks.
        heads: Likewise of those that are looked at after the XREAD has ended.
    """

    commands: Sequence[Command]
    looks: Sequence[Look]
    seconds: float
    heads: Sequence[Look] = ()


class _Stream:
    """One stream: its waiters, the offset of the last entry that they or the connection know, and two times."""

    __slots__ = ("asked", "idle_since", "known", "looked_at", "waiters")

    def __init__(self, known: int) -> None:
        self.known = known
        self.waiters: set[Waiter] = set()
        self.asked: int | None = None
        """The offset after which the XREAD under way asks; None if it does not ask for this stream."""
        self.looked_at = -math.inf
        self.idle_since = 0.0

    @property
    def after(self) -> int:
        """The offset after which to ask: all who wait know that entry, and others do not wait."""
        return min((waiter.wait.after for waiter in self.waiters), default=self.known)


class WatchedStreams:
    """The streams of one connection.

    Args:
        look_seconds: How often to look at each run, and for how long an XREAD blocks at most.
    """

    def __init__(self, look_seconds: float) -> None:
        self._look_seconds = look_seconds
        self._block_seconds = _SHORTEST_BLOCK_SECONDS
        self._calm_at = 0.0
        self._streams: dict[str, _Stream] = {}

    def __bool__(self) -> bool:
        return bool(self._streams)

    def join(self, waiter: Waiter, now: float) -> bool:
        """Add a follower that waits. Returns whether the XREAD under way does not ask for what it waits for."""
        name, after = waiter.wait.stream, waiter.wait.after
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream(after)
        elif after < stream.known:
            # it came while the follower was busy. Once only: the run may have begun anew, with less in it
            stream.known = after
            waiter.wake()
            return False
        stream.waiters.add(waiter)
        if stream.asked is not None and stream.asked <= after:
            return False
        self._shorten(now)
        return True

    def join_all(self, waiters: Iterable[Waiter], now: float) -> bool:
        """Add several. Returns whether the XREAD under way does not ask for what one of them waits for."""
        joined = [self.join(waiter, now) for waiter in waiters]
        return any(joined)

    def leave(self, waiter: Waiter, now: float) -> None:
        """Remove a follower that waits no longer, whether it was woken or not."""
        stream = self._streams.get(waiter.wait.stream)
        if stream is not None and waiter in stream.waiters:
            self._remove(stream, [waiter], now)

    def ask(self, now: float, longest_seconds: float) -> Question | None:
        """What to send next, blocking for no longer than that; None if there is nothing to wait for."""
        for name, stream in list(self._streams.items()):
            if not stream.waiters and now - stream.idle_since > IDLE_SECONDS:
                del self._streams[name]
        if not self._streams:
            return None
        looks: list[Look] = []
        for name, stream in self._streams.items():
            stream.asked = stream.after
            if stream.waiters and now - stream.looked_at >= self._look_seconds:
                stream.looked_at = now
                looks += dict.fromkeys((name, waiter.wait.look) for waiter in stream.waiters)
        seconds = min(self._block_seconds, self._look_seconds, longest_seconds)
        ids = [f"{stream.asked}-{_MAX_SEQUENCE}" for stream in self._streams.values()]
        block = max(1, int(seconds * 1000))
        heads = self._heads(self._streams) if len(self._streams) <= _FEW else []
        count = self._most() if heads else 1
        news = (b"XREAD", b"COUNT", count, b"BLOCK", block, b"STREAMS", *self._streams, *ids)
        return Question([*commands_of(looks), news, *commands_of(heads)], looks, seconds, heads)

    def heads_of(self, news: Sequence[Arrivals]) -> list[Look]:
        """How to look at the runs of what an XREAD has brought, for those who take it from there."""
        return self._heads([name for name, _ in news])

    def take_look(self, look: Look, reply: Any, now: float) -> None:
        """Wake the followers that look so, to whom this is not what they know of the run; an error never is."""
        name, command = look
        stream = self._streams.get(name)
        if stream is not None:
            is_error = isinstance(reply, Exception)
            lookers = [one for one in stream.waiters if one.wait.look == command]
            self._wake(stream, [one for one in lookers if is_error or one.wait.differs(reply)], now)

    def take_news(self, news: Sequence[Arrivals], heads: Mapping[Look, Any], now: float) -> None:
        """Wake the followers that wait for what an XREAD has brought, with the replies to the looks after it."""
        for stream in self._streams.values():
            stream.asked = None
        if not news:
            longest = JOIN_SECONDS if now < self._calm_at else self._look_seconds
            self._block_seconds = min(2 * self._block_seconds, longest)
        for name, entries in news:
            of_name = self._streams.get(name)
            if of_name is None:
                continue
            if of_name.waiters:
                of_name.known = parse_offset(entries[-1][0])
                woken = [one for one in of_name.waiters if one.wait.after < of_name.known]
                for waiter in woken:
                    head = heads.get((name, waiter.wait.look)) if waiter.wait.most else None
                    if head is not None and not isinstance(head, Exception):
                        waiter.news = News(head, entries)
                self._wake(of_name, woken, now)
            else:
                del self._streams[name]
                self._shorten(now)  # whoever follows it may come back soon

    def end(self, *, is_refused: bool = False, error: BaseException | None = None) -> None:
        """Wake all followers, and watch nothing any more."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            for waiter in stream.waiters:
                waiter.is_refused, waiter.error = is_refused, error
                waiter.wake()

    def _heads(self, names: Iterable[str]) -> list[Look]:
        looks: dict[Look, None] = {}
        for name in names:
            stream = self._streams.get(name)
            if stream is not None:
                looks |= dict.fromkeys((name, waiter.wait.look) for waiter in stream.waiters if waiter.wait.most)
        return list(looks)

    def _most(self) -> int:
        """How many entries of each stream are asked for: no more than anybody takes."""
        every = (waiter.wait.most for stream in self._streams.values() for waiter in stream.waiters)
        return min(filter(None, every), default=1)

    def _shorten(self, now: float) -> None:
        self._block_seconds, self._calm_at = _SHORTEST_BLOCK_SECONDS, now + CALM_SECONDS

    def _wake(self, stream: _Stream, waiters: Sequence[Waiter], now: float) -> None:
        self._remove(stream, waiters, now)
        for waiter in waiters:
            waiter.wake()

    @staticmethod
    def _remove(stream: _Stream, waiters: Sequence[Waiter], now: float) -> None:
        stream.waiters.difference_update(waiters)
        stream.idle_since = now
