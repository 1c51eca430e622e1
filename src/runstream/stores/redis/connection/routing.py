"""Which servers of a cluster an exchange goes to, and what becomes of what they say of each other.

Commands go to whichever server has the slot of their key, all servers at once. Who is not the right one says so
before it does anything: MOVED for a slot that has gone elsewhere, ASK for a key of a slot that is just going. What
is refused for now (TRYAGAIN, CLUSTERDOWN, a server that is not reached) the driver sends again, to whichever
server has the slot by then. See https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/.

Nothing here does any I/O or waits: a routing yields what to ask several servers at once, and receives what each
answers. The two transports (:mod:`~runstream.stores.redis.connection.cluster`) ask.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from redis import exceptions

from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.operations.operation import Command, Exchange, Refusal, Replies, carry_answers, take_last
from runstream.stores.redis.connection.errors import is_full
from runstream.stores.redis.connection.every_server import least, least_reached
from runstream.stores.redis.connection.slots import (
    SLOTS_QUERY,
    Address,
    Remap,
    SlotMap,
    slot_of_command,
    slot_of_key,
)
from runstream.stores.redis.scripts.script import script_of

__all__ = ["Asked", "Outcome", "Router", "Routing"]

T = TypeVar("T")

_MOST_REDIRECTIONS = 8
_END_OF_SCAN = b"0"
_OF_THOSE_REACHED: frozenset[Command] = frozenset({(b"TIME",), (b"INFO", b"memory")})
"""What workers ask now and then: while a server is gone, those go on who drain partitions of others alone."""


class Asked(NamedTuple):
    """An exchange with one server."""

    address: Address
    exchange: Exchange


Outcome: TypeAlias = Replies | RunstreamError
"""The replies of one server, an AskError (MOVED is one) for each command that is another's; or what it raised."""

Routing: TypeAlias = Generator[Sequence[Asked], Sequence[Outcome], T]
"""Yields what to ask at a time; receives the outcomes in that order; returns a T."""


class _Part(NamedTuple):
    """The commands of an exchange that one server gets, by their indexes.

    ``is_asking``: it is about to have their slots, and is to say what it has of them already.
    """

    address: Address
    is_asking: bool
    indexes: Sequence[int]

    def exchange(self, whole: Exchange) -> Exchange:
        commands = [whole.commands[index] for index in self.indexes]
        if not self.is_asking:
            return whole._replace(commands=commands)
        scripts = dict.fromkeys(script for command in commands if (script := script_of(command)) is not None)
        asking: list[Command] = [(b"SCRIPT", b"LOAD", script.source) for script in scripts]
        for command in commands:
            asking += ((b"ASKING",), command)
        return whole._replace(commands=asking)

    def replies(self, given: Replies) -> Iterator[tuple[int, Any]]:
        """The replies with the indexes of their commands."""
        step = 2 if self.is_asking else 1
        return zip(self.indexes, given[::-1][: step * len(self.indexes) : step][::-1], strict=True)


class _Other(NamedTuple):
    """A server that another one names for what it did not take.

    ``is_moved``: it has the slot; if not, it is about to have it.
    """

    told_by: Address
    host: str
    port: int
    is_moved: bool


class _Answers:
    """What has been answered of an exchange, and what not yet."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._answered = dict(exchange.answered or {})
        self._redirected: list[exceptions.AskError] = []
        self._confirmed: list[Replies] = []
        self.others: dict[_Other, list[int]] = {}
        """Who is to be asked next, with the indexes of the commands."""

    def take_all(self, parts: Sequence[_Part], outcomes: Sequence[Outcome]) -> None:
        """Take what servers have replied to their parts, those that have."""
        for part, outcome in zip(parts, outcomes, strict=True):
            if not isinstance(outcome, RunstreamError):
                self._take(part, outcome)

    def _take(self, part: _Part, given: Replies) -> None:
        """What confirms nothing that the server has taken counts for nothing."""
        confirmation = take_last(given, len(self._exchange.confirm))
        count = len(self._answered)
        for index, reply in part.replies(given):
            if isinstance(reply, exceptions.AskError):
                is_moved = isinstance(reply, exceptions.MovedError)
                other = _Other(part.address, reply.host, int(reply.port), is_moved)
                self.others.setdefault(other, []).append(index)
                self._redirected.append(reply)
            else:
                self._answered[index] = reply
        if len(self._answered) > count:
            self._confirmed.append(confirmation)

    def let_be_carried(self, error: StoreUnavailable) -> None:
        """Let what was answered not be asked again. What is to be confirmed is, with its confirmation."""
        if not self._exchange.confirm:
            carry_answers(error, self._answered)

    @property
    def all(self) -> Replies:
        """The replies to all commands, and what the least confirms."""
        replies = [self._answered[index] for index in range(len(self._exchange.commands))]
        return [*replies, *map(least_reached, zip(*self._confirmed, strict=True))]

    def next(self) -> Sequence[tuple[_Other, list[int]]]:
        """Who is to be asked now. Raises StoreUnavailable where that would answer apart what belongs together."""
        others, self.others = self.others, {}
        if self._exchange.atomic and not all(other.is_moved for other in others):
            raise self.unsettled("queries that belong together are not answered meanwhile")
        return list(others.items())

    def unsettled(self, why: str) -> StoreUnavailable:
        """The error for a slot that is on its way."""
        return StoreUnavailable(
            f"a slot of the cluster is being moved ({self._redirected[-1]}), and {why}",
            next_step="send the same events again on this store object when it has moved; any other call may be"
            " repeated as it is",
        )


class Router:
    """Finds the servers of one cluster.

    Args:
        startup: Those at which it is reached.
        remap: Where a server is reached that says that it has some address; None: there.
    """

    def __init__(self, startup: Iterable[Address], remap: Remap | None = None) -> None:
        self._startup = tuple(startup)
        self._remap = remap
        self._slots: SlotMap | None = None
        self._is_doubtful = False
        self._suspects: set[Address] = set()

    def exchange(self, exchange: Exchange) -> Routing[Replies]:
        """Send an exchange once, what is another server's also to that one; see :meth:`Transport.exchange`."""
        if not exchange.commands:
            return []
        slots = yield from self.slots()
        if exchange.commands[0][0] == b"SCAN":
            return (yield from self._scan(exchange, slots))
        parts = _parts(exchange, slots)
        if parts is None:
            asked = [Asked(address, exchange) for address in slots.primaries]
            of_each = self._heard(
                asked, (yield asked), some_suffice=_OF_THOSE_REACHED.issuperset(exchange.commands)
            )
            return [least(*found) for found in zip(exchange.commands, zip(*of_each, strict=True), strict=True)]
        answers = _Answers(exchange)
        for _ in range(_MOST_REDIRECTIONS):
            asked = [Asked(part.address, part.exchange(exchange)) for part in parts]
            outcomes = yield asked
            answers.take_all(parts, outcomes)
            try:
                self._heard(asked, outcomes)
            except StoreUnavailable as error:
                answers.let_be_carried(error)
                raise
            if not answers.others:
                return answers.all
            for address in dict.fromkeys(self._place(*one) for one in answers.others if one.is_moved):
                yield from self.slots(address)
            parts = [_Part(self._place(*one), not one.is_moved, indexes) for one, indexes in answers.next()]
        raise answers.unsettled("its servers do not agree on which of them has it")

    @property
    def known(self) -> Collection[Address]:
        """All servers that are known, replicas among them."""
        return {*self._startup, *(() if self._slots is None else self._slots.nodes)}

    def address_of(self, key: str) -> Routing[Address]:
        """Who has a key."""
        return (yield from self.slots()).address_of(slot_of_key(key))

    def slots(self, better_known_by: Address | None = None) -> Routing[SlotMap]:
        """Who has which slot; asked again after a failure, or of whoever is said to know better.

        Raises:
            StoreUnavailable: No server is reached.
            ConfigurationError: One is none of a cluster, or does not tell.
        """
        if self._slots is not None and not self._is_doubtful and better_known_by is None:
            return self._slots
        self._is_doubtful = False  # what fails from now on may have been sent by the old map
        error: RunstreamError = StoreUnavailable("no server of the cluster is known")
        for address in self._who_knows(better_known_by):
            (outcome,) = yield [Asked(address, Exchange([SLOTS_QUERY], permissive=True))]
            if isinstance(outcome, StoreUnavailable):
                self._doubt(address, error := outcome)
            elif isinstance(outcome, RunstreamError):
                raise outcome
            elif isinstance(outcome[0], Refusal):
                raise _untold(address, outcome[0])
            elif outcome[0]:
                self._slots = SlotMap.parse(outcome[0], address, self._remap)
                self._suspects.clear()
                return self._slots
            else:
                error = StoreUnavailable(
                    "no server of the cluster has any slot: make it whole first (redis-cli --cluster create)"
                )
        self._is_doubtful = True
        raise error

    def _who_knows(self, first: Address | None) -> Iterable[Address]:
        """All that are known, in the order in which to ask them: who has just failed comes last."""
        known = [] if self._slots is None else self._slots.nodes
        others = random.sample(known, len(known))
        return sorted(
            dict.fromkeys([*([] if first is None else [first]), *others, *self._startup]),
            key=self._suspects.__contains__,
        )

    def _place(self, told_by: Address, host: str, port: int, *_: object) -> Address:
        """Where a server is that another one has named."""
        address = host or told_by[0], port
        return address if self._remap is None else self._remap(address)

    def _heard(
        self, asked: Sequence[Asked], outcomes: Sequence[Outcome], *, some_suffice: bool = False
    ) -> Sequence[Replies]:
        """What each has replied, or, if some suffice, each that is reached.

        Raises what one of them raised, first of all what may pass.
        """
        errors = [outcome for outcome in outcomes if isinstance(outcome, RunstreamError)]
        passing = [error for error in errors if isinstance(error, StoreUnavailable)]
        for one, outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable) and not is_full(outcome.__cause__):
                self._doubt(one.address, outcome)
        replies = [outcome for outcome in outcomes if not isinstance(outcome, RunstreamError)]
        if not (some_suffice and replies and len(errors) == len(passing)):
            for error in passing or errors:
                raise error
        return replies

    def _doubt(self, address: Address, error: StoreUnavailable) -> None:
        """Ask anew who has which slot, and a server that did not answer last."""
        self._is_doubtful = True
        if not isinstance(error.__cause__, exceptions.ResponseError):
            self._suspects.add(address)

    def _scan(self, exchange: Exchange, slots: SlotMap) -> Routing[Replies]:
        """A page of keys of one server after another; of one alone where the exchange is near a key.

        Where a page begins says which server's it is, and who had which slot when the scan began: if that is not
        so any more, it begins anew, as keys may have gone where it has been already.
        """
        ((name, begins, *options),) = exchange.commands
        position, place, fingerprint = _place_in_scan(begins)
        servers = slots.primaries
        if exchange.near is not None:
            servers = [slots.address_of(slot_of_key(exchange.near))]
        if fingerprint not in (None, slots.fingerprint):
            position, place = _END_OF_SCAN, 0
        asked = [Asked(servers[place], exchange._replace(commands=[(name, position, *options)]))]
        (((position, found),),) = self._heard(asked, (yield asked))
        if position == _END_OF_SCAN:
            place += 1
        if place == len(servers):
            self._is_doubtful = True
            now = yield from self.slots()
            if now.fingerprint == slots.fingerprint:
                return [[_END_OF_SCAN, found]]
            place = 0  # anew, though all may be again as it was when the next page is asked for
        return [[b"%b@%d@%d" % (position, place, slots.fingerprint), found]]


def _place_in_scan(begins: Any) -> tuple[bytes, int, int | None]:
    """The position at a server, which server it is, and the fingerprint of the slots; None at the beginning."""
    if b"@" not in begins:
        return begins, 0, None
    position, place, fingerprint = begins.split(b"@")
    return position, int(place), int(fingerprint)


def _parts(exchange: Exchange, slots: SlotMap) -> list[_Part] | None:
    """Who gets which commands; None for commands without keys, which each server gets.

    What belongs together is of one slot: no transaction touches two.
    """
    indexes: dict[tuple[Address, int | None], list[int]] = {}
    without: list[int] = []
    for index, command in enumerate(exchange.commands):
        if exchange.answered is not None and index in exchange.answered:
            continue
        slot = slot_of_command(command)
        if slot is None:
            without.append(index)
        else:
            where = slots.address_of(slot), slot if exchange.atomic else None
            indexes.setdefault(where, []).append(index)
    if without and exchange.near is not None:
        slot = slot_of_key(exchange.near)
        indexes.setdefault((slots.address_of(slot), slot if exchange.atomic else None), []).extend(without)
    elif without and indexes:
        next(iter(indexes.values())).extend(without)
    elif without:
        return None
    return [_Part(address, False, sorted(of_it)) for (address, _), of_it in indexes.items()]


def _untold(address: Address, refusal: Refusal) -> RunstreamError:
    """Why a server does not tell who has which slot."""
    if refusal.is_denied:
        return ConfigurationError(
            f"{refusal.error}: runstream needs CLUSTER SLOTS to find who has a key; ask whoever keeps the users of"
            " the cluster for it (ACL SETUSER … +cluster|slots)"
        )
    return ConfigurationError(
        f"the server at {address[0]}:{address[1]} is none of a cluster ({refusal.error}): write redis:// in place"
        " of redis+cluster://, or give the address of one that is"
    )
