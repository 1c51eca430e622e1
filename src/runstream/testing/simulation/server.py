"""The simulated server: the scripts as they are, over the data structures of fakeredis, and the way to it.

A replica lacks what came last: when it is promoted, that is lost.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from enum import Enum
from functools import partial
from typing import Any, ClassVar, NamedTuple

from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Command, Exchange, News, Replies, Wait, WaitAny
from runstream.stores.redis.connection.single import SingleServerTransport
from runstream.stores.redis.scripts.calls import GATHER
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.scripts.script import script_of
from runstream.testing.simulation.lines import Lines
from runstream.testing.simulation.moments import Course, Courses
from runstream.testing.simulation.node import Node
from runstream.testing.simulation.scheduler import Process, Scheduler
from runstream.testing.simulation.story import answered, batch_of, run_of, told

__all__ = ["BLOCK_SECONDS", "Done", "Fate", "SimulatedServer", "SimulatedTransport"]

BLOCK_SECONDS = 5.0
_CLAIMING = ("claim", "revisit")  # the scripts with which a worker begins to drain runs
_LOOK_SECONDS = 0.25
_STAYS = 20  # so much oftener than not, a client stays with a former primary that answers


class Fate(Enum):
    """What becomes of a round trip."""

    ARRIVES = "arrives"
    REQUEST_LOST = "its request is lost"
    REPLY_LOST = "its reply is lost"
    KILLED_BEFORE = "the process is killed before it is sent"
    KILLED_AFTER = "the process is killed before the reply comes"
    STOPPED_BEFORE = "the process is stopped before it is sent"
    STOPPED_AFTER = "the process is stopped before the reply comes"
    REQUEST_LATE = "its request comes late"


FATES = list(Fate)
STOPS_SECONDS = (1.0, 40.0, 3600.0)
LATE_SECONDS = (0.02, 1.0, 40.0)


class Done(NamedTuple):
    """An exchange that a server has executed.

    Attributes:
        process: Whose it was.
        exchange: The exchange.
        replies: What it gave.
        identity: The replication id of the server.
        at: When, as the server's clock showed it (Unix time in seconds).
    """

    process: Process
    exchange: Exchange
    replies: Replies
    identity: str
    at: float


class SimulatedServer:
    """The server at one address: a primary, the replica that follows it, and former primaries."""

    broken: ClassVar[Mapping[str, str]] = {}
    """By the name of a script, what the server has in its place: for tests of whether that is found."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.is_away = False
        self.is_calm = False  # nobody stands still any more
        self.losses = 0
        self.deletions: Counter[str] = Counter()
        """How often each run was deleted."""
        self.applied: set[tuple[str, str]] = set()
        """The batches that were applied, by their producers and numbers, also those that were lost since."""
        self._dice = random.Random(scheduler.choices.seed)  # of names alone
        self._executing: Node | None = None
        self._former: list[Node] = []
        self.lines = Lines(scheduler)
        self.courses = Courses(scheduler, self.executing, self.stand_still)
        self.restarts = 0
        self.primary = self._new_node()
        self.watch: Callable[[Exchange, int], AbstractContextManager[object]] = lambda *_: nullcontext()
        """Looks at an exchange as it is executed, and is told the step at which its process last claimed runs."""
        self.notes: list[Callable[[Done], None]] = []
        """Each is told of every exchange that was executed."""

    @property
    def fake(self) -> Any:
        """The primary, as fakeredis has it."""
        return self.primary.fake

    @property
    def is_split(self) -> bool:
        """Whether a former primary takes commands still."""
        return any(not node.is_gone for node in self._former)

    @property
    def has_moments(self) -> bool:
        """Whether the exchange of a task that asks is executed in several moments."""
        return self.scheduler.is_simulated() and bool(self.courses.weights())

    def skew(self) -> float:
        """How far the clock of the server is ahead that executes something now, in seconds."""
        return 0.0 if self._executing is None else self._executing.skew()

    def execute(self, send: Callable[[], Replies], node: Node | None = None) -> Replies:
        """Make an exchange with a server, which happens at one moment by its clock."""
        if self.is_away:
            raise StoreUnavailable("the simulated server is away")
        with self.executing(node or self.primary):
            return send()

    @contextmanager
    def executing(self, node: Node | None) -> Iterator[None]:
        """Let it be this server that executes something now; None: none does."""
        former, self._executing = self._executing, node
        try:
            yield
        finally:
            self._executing = former

    def stand_still(self) -> None:
        """Let the process of the task that asks stand still for a while."""
        seconds = self.scheduler.choices.one_of(STOPS_SECONDS)
        self.scheduler.note(f"stands still for {seconds:g} s")
        self.scheduler.wait(seconds, lambda: self.is_calm)

    def note(self, done: Done) -> None:
        """Keep account of an exchange that was executed."""
        for note in self.notes:
            note(done)
        for call, reply in zip(done.exchange.commands, done.replies, strict=True):
            if reply == 1 and (run_id := run_of(call, "delete")):
                self.deletions[run_id] += 1
            if isinstance(reply, bytes) and (batch := batch_of(call)):
                self.applied.add(batch)

    def replicate(self) -> None:
        """Let the replica have all that there is; it is a new one if there is none."""
        if self.primary.replica is None:
            self.primary.follow(self._new_node())
        self._catch_up(0)

    def promote(self, lost: int = 0, *, is_split: bool = False) -> Node:
        """Let the replica take the primary's place, without so many of the last commands that it was sent.

        The former primary, which is returned, is gone, or, split, goes on for those who are connected to it.
        """
        former, replica = self.primary, self._catch_up(lost)
        replica.skew_seconds = former.skew_seconds
        replica.forget_scripts()
        self.primary = replica
        former.is_gone = not is_split
        self._former.append(former)
        self.losses += 1
        return former

    def restart(self) -> None:
        """Let the server come back with its data, and without its scripts."""
        self.restarts += 1
        self.be_another()

    def be_another(self) -> None:
        """Let the server have another replication id, and no scripts."""
        self.primary.restart(self._new_identity())

    def be_calm(self) -> None:
        """Serve everybody from here on."""
        self.is_calm, self.is_away, self.primary.state = True, False, None
        for node in self._former:
            node.is_gone = True

    def _catch_up(self, all_but: int) -> Node:
        replica = self.primary.replica
        assert replica is not None
        self.execute(lambda: self.primary.replicate(all_but), replica)  # type: ignore[arg-type,return-value] # no replies
        return replica

    def _new_node(self) -> Node:
        scripts = {SCRIPT[name].encode(): source.encode() for name, source in self.broken.items()}
        return Node(self.scheduler.clock, self._new_identity(), scripts, self.courses)

    def _new_identity(self) -> str:
        return f"{self._dice.getrandbits(160):040x}"


class SimulatedTransport(SingleServerTransport):
    """The way of one process to the server: each round trip has two steps, and a fate.

    Args:
        server: The server.
        process: Whose way it is.
        fates: The weights of the fates, in their order.
    """

    def __init__(self, server: SimulatedServer, process: Process, fates: Callable[[], list[int]]) -> None:
        self._server, self._process, self._fates = server, process, fates
        self._claimed_at = 0
        self._connect()

    def _connect(self) -> None:
        """Connect to whichever server is the primary now."""
        self._node = self._server.primary
        super().__init__(self._node.client())
        self.max_block_seconds, self.is_fake = BLOCK_SECONDS, False

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once, if chance lets it arrive."""
        if not self._server.scheduler.is_simulated():
            return self.execute(exchange)
        since = self.claimed_since(exchange)
        trip = self.trip(exchange, since)
        result = None
        try:
            while True:
                wait = trip.send(result)
                result = self.execute(exchange, since) if wait is None else wait()
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return] # as the trip has it

    def trip(self, exchange: Exchange, since: int) -> Generator[Callable[[], object] | None, Any, Replies]:
        """What happens on the way of an exchange, and what comes back.

        Yields what to wait for, and None where the server is to execute it: it gets the replies.
        """
        scheduler = self._server.scheduler
        yield scheduler.step
        fate = FATES[scheduler.choices.among(self._fates())]
        what = told(exchange)
        scheduler.note(what if fate is Fate.ARRIVES else f"{what}: {fate.value}")
        if fate is Fate.REQUEST_LOST:
            raise StoreUnavailable("the simulated request was lost")
        if fate is Fate.KILLED_BEFORE:
            scheduler.kill(self._process)
        if fate is Fate.STOPPED_BEFORE:
            yield self._server.stand_still
        if fate is Fate.REQUEST_LATE:
            self._send_late(exchange, what, since)
            raise StoreUnavailable("the simulated request is on its way still")
        replies = yield self._server.lines.line_up(self, exchange)
        if replies is None:
            replies = yield None
        if (answer := answered(replies)) and fate is not Fate.REPLY_LOST:
            scheduler.note(answer)
        if fate is Fate.KILLED_AFTER:
            scheduler.kill(self._process)
        if fate is Fate.STOPPED_AFTER:
            yield self._server.stand_still
        yield scheduler.step
        if fate is Fate.REPLY_LOST:
            raise StoreUnavailable("the simulated reply was lost")
        return replies  # type: ignore[no-any-return] # as they came

    def _send_late(self, exchange: Exchange, what: str, since: int) -> None:
        deletions, losses = Counter(self._server.deletions), self._server.losses
        deliver = partial(self._deliver_late, exchange, what, since, deletions=deletions, losses=losses)
        self._server.scheduler.spawn(Process("the network"), "the network", deliver)

    def execute(
        self, exchange: Exchange, since: int = 0, is_outdated: Callable[[], bool] = lambda: False
    ) -> Replies:
        """Let the server execute an exchange.

        Args:
            exchange: The exchange.
            since: The step at which its process last claimed runs.
            is_outdated: Whether what is left of it is not to be executed any more.
        """
        server, node = self._server, self.connected()
        sent = exchange._replace(confirm=())  # fakeredis has no WAIT
        send = partial(server.execute, partial(super().exchange, sent), node)
        if server.has_moments:
            course = self.course(sent, since, is_outdated)
            with server.courses.taken(course):
                replies = send()
                if exchange.confirm:
                    server.courses.let_others_go_on(course)
        else:
            with server.watch(exchange, since):
                replies = send()
        return self.executed(node, exchange, replies)

    def connected(self) -> Node:
        """The server that it is connected to. Raises StoreUnavailable if there is none any more."""
        server, node = self._server, self._node
        if node is not server.primary and (node.is_gone or server.scheduler.choices.among([_STAYS, 1])):
            self._connect()
            raise StoreUnavailable("the simulated connection was lost")
        return node

    def executed(self, node: Node, exchange: Exchange, replies: Replies) -> Replies:
        """Note what a server has executed, and let the replica have what it is to confirm. Returns all replies."""
        if exchange.atomic or not self._server.has_moments:
            self._note(node, exchange, replies)
        if exchange.confirm:
            self._server.replicate()
            replies += [1] * len(exchange.confirm)
        return replies

    def course(self, exchange: Exchange, since: int, is_outdated: Callable[[], bool] = lambda: False) -> Course:
        """The course of an exchange; see ``execute``."""
        server, node, restarts = self._server, self._node, self._server.restarts
        note = partial(self._note, node)

        def is_broken() -> bool:
            is_another = self._node is not node or server.restarts != restarts
            return is_another or node.is_gone or server.is_away or is_outdated()

        return Course(exchange, is_broken, lambda one: server.watch(one, since), note, self._refusal)

    def _refusal(self, command: Command) -> str | None:  # noqa: ARG002 - others may have reasons
        """Why a server refuses a command that it gets in the course of an exchange; None: it does not."""
        return None

    def note(self, exchange: Exchange, replies: Replies) -> None:
        """Note that the server that it is connected to has executed an exchange."""
        self._note(self._node, exchange, replies)

    def _note(self, node: Node, exchange: Exchange, replies: Replies) -> None:
        if exchange.commands and script_of(exchange.commands[0]) is GATHER:
            return  # each of its appends is noted
        self._server.note(Done(self._process, exchange, replies, node.identity, node.time()))

    def claimed_since(self, exchange: Exchange) -> int:
        """The step at which the process claims runs, with this exchange or one before it."""
        if any(script is not None and script.name in _CLAIMING for script in map(script_of, exchange.commands)):
            self._claimed_at = self._server.scheduler.steps
        return self._claimed_at

    def wait(self, wait: Wait) -> News | None:
        """Wait a little: whoever waits looks then. What has come may be brought, as a hub does."""
        self._rest(wait.seconds)
        with suppress(StoreUnavailable):
            return self._brought(wait)
        return None

    def _rest(self, seconds: float | None) -> None:
        self._server.scheduler.wait(min(_LOOK_SECONDS, seconds or _LOOK_SECONDS))

    def _brought(self, wait: Wait) -> News | None:
        if wait.most == 0:
            return None
        # not XREAD, to which fakeredis replies with an empty map where a server replies with nothing
        command = (b"XRANGE", wait.stream, str(wait.after + 1), "+", b"COUNT", wait.most)
        (entries,) = self.exchange(Exchange([command]))
        if not entries:
            return None
        (look,) = self.exchange(Exchange([wait.look]))
        return News(look, entries)

    def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait a little: whoever waits looks then."""
        self._rest(wait.seconds)
        return dict.fromkeys(range(len(wait.waits)))

    def turn(self) -> AbstractContextManager[object]:
        """A simulated server has connections for all."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is open."""

    def _deliver_late(
        self, exchange: Exchange, what: str, since: int, *, deletions: Counter[str], losses: int
    ) -> None:
        scheduler = self._server.scheduler
        seconds = scheduler.choices.one_of(LATE_SECONDS)
        scheduler.wait(seconds, lambda: self._server.is_calm)

        # what comes after its run was deleted may make the run anew, and what comes after a failover that has lost
        # its batch may be there again: docs/protocol.md, Limits
        def is_outdated() -> bool:
            deleted = self._server.deletions - deletions
            if any(run_of(command, "append") in deleted for command in exchange.commands):
                return True
            return self._server.losses > losses and any(map(self._was_applied, exchange.commands))

        if is_outdated():
            return
        scheduler.note(f"brings what {self._process.name} had sent: {what}")
        with suppress(StoreUnavailable):
            self.execute(exchange, since, is_outdated)

    def _was_applied(self, command: Command) -> bool:
        return batch_of(command) in self._server.applied
