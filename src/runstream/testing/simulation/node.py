"""One simulated server: the data structures of fakeredis, with the identity and the refusals of a real one.

Where fakeredis is silent, it answers as Redis does: ``INFO`` tells its replication id, and what a server refuses
in its present state is refused as Redis refuses it, a script at its first write alone. A replica makes the
primary's writes again, at the time of the primary's clock at which they were made: of a script, those that it
made, not the script, which looks at the server's identity and would make others there.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import fakeredis
from fakeredis import aioredis
from fakeredis._commands import Signature
from fakeredis._helpers import SimpleError
from fakeredis._socket import AsyncFakeSocket, FakeSocket
from fakeredis._socket._resp import extract_command
from fakeredis.model import get_command_info

from runstream.stores.redis.connection.errors import breaks_connection
from runstream.testing.simulation.bytecode import ParsesOnce
from runstream.testing.simulation.clock import Clock
from runstream.testing.simulation.moments import Courses

__all__ = ["Answering", "Node", "State", "Told"]

_FLAGS_OF_INFO = frozenset([b"loading", b"stale"])  # the one command that fakeredis does not know
_NOT_QUEUED = ("exec", "discard", "multi", "watch", "quit", "reset")
_REPLICA_LAGS = 200  # commands, at most
_INFO = Signature("info", "info", (), (bytes,))  # type: ignore[arg-type] # as fakeredis's own have it
_WAIT = Signature("wait", "wait", (), (bytes,))  # type: ignore[arg-type]


class State(Enum):
    """In which a server refuses commands: its error, a flag, and whether it refuses those with it or others."""

    FULL = ("OOM command not allowed when used memory > 'maxmemory'.", b"denyoom", True)
    READ_ONLY = ("READONLY You can't write against a read only replica.", b"write", True)
    CANNOT_PERSIST = (
        "MISCONF Valkey is configured to save RDB snapshots, but cannot persist on disk.",
        b"write",
        True,
    )
    LOADING = ("LOADING Redis is loading the dataset in memory", b"loading", False)
    BUSY = (
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        b"allow_busy",
        False,
    )


class Told(NamedTuple):
    """A command that a server was told, when by its clock, who and in which state it was, and what it replied."""

    at: float
    identity: str
    state: State | None
    words: Sequence[bytes]
    reply: Any


class _Executed(NamedTuple):
    """Writes that were made all at once, at a time of the server's clock (Unix time in seconds)."""

    at: float
    commands: list[tuple[str, list[bytes]]]
    number: int
    """Of the command among those that the server was told."""


class Node:
    """A server.

    Args:
        clock: The machine's.
        identity: Its replication id: 40 hexadecimal digits, which no other has.
        scripts: Scripts that it has in the place of others, by digest.
        courses: The exchanges that it executes in several moments; None: it executes each at one.
    """

    def __init__(
        self, clock: Clock, identity: str, scripts: Mapping[bytes, bytes], courses: Courses | None = None
    ) -> None:
        self.identity = identity
        self.state: State | None = None
        self.forbidden: str | None = None
        """A command that nobody has the right to, in lower case: a script is refused it in its midst, too."""
        self.is_gone = False
        self.skew_seconds = 0.0
        self.told: list[Told] | None = None
        """What it was told, where somebody wants to know: all from which its data follow.

        Of a replica it begins with what the primary was told, up to the last command that has reached it.
        """
        self.courses = courses
        self._clock, self._scripts = clock, scripts
        self._executed: list[_Executed] = []
        self.replica: Node | None = None
        self._moment: float | None = None
        self.fake = _FakeServer(self)
        self.forget_scripts()

    def client(self) -> fakeredis.FakeRedis:
        """A client of its own."""
        return fakeredis.FakeRedis(server=self.fake, connection_class=_Connection)

    def async_client(self) -> aioredis.FakeRedis:
        """The same for asyncio: others go on between the commands that it sends, of its own process, too."""
        return aioredis.FakeRedis(server=self.fake, connection_class=_AsyncConnection)

    def skew(self) -> float:
        """How far its clock is ahead of the machine's, in seconds."""
        return self.skew_seconds if self._moment is None else self._moment - self._clock.time()

    def time(self) -> float:
        """Unix time in seconds, as its clock shows it."""
        return self._clock.time() + self.skew()

    def restart(self, identity: str) -> None:
        """Come back with all data, without scripts, under another replication id."""
        self.identity = identity
        self.forget_scripts()

    def forget_scripts(self) -> None:
        """Know no script any more but those that are in others' places."""
        self.fake.script_cache.clear()
        self.fake.script_cache.update(self._scripts)

    # -- replication

    def follow(self, replica: Node) -> None:
        """Let another server, which has nothing yet, replicate this one."""
        for number, database in self.fake.dbs.items():
            values, heap = copy.deepcopy((database._dict, database._expiry_heap))
            replica.fake.dbs[number]._dict, replica.fake.dbs[number]._expiry_heap = values, heap
        self.replica, self._executed = replica, []
        self._tell_replica(len(self.told or ()))

    def replicate(self, all_but: int = 0) -> Node:
        """Let the replica have all but so many of the last commands; the replica."""
        assert self.replica is not None
        upto = max(0, len(self._executed) - all_but)
        executed, self._executed = self._executed[:upto], self._executed[upto:]
        for one in executed:
            self.replica._run_again(one)
        if executed:
            self._tell_replica(executed[-1].number)
        return self.replica

    def _tell_replica(self, upto: int) -> None:
        if self.replica is not None and self.told is not None:
            self.replica.told = self.told[:upto]

    def note_executed(self, commands: list[tuple[str, list[bytes]]]) -> None:
        """Keep what made a write for the replica, which is never far behind."""
        if self.replica is not None:
            number = len(self.told or ()) + 1
            self._executed.append(_Executed(self.time(), commands, number))
            if len(self._executed) >= 2 * _REPLICA_LAGS:
                self.replicate(_REPLICA_LAGS)

    def note_told(self, words: Sequence[bytes], reply: Any) -> None:
        """Keep what it was told, if anybody wants to know."""
        if self.told is not None:
            self.told.append(Told(self.time(), self.identity, self.state, words, reply))

    def _run_again(self, executed: _Executed) -> None:
        self._moment = executed.at
        try:
            for database in self.fake.dbs.values():
                database.time = executed.at
            connection: Any = _socket_of(self.fake)
            with self.fake.lock:
                for name, words in executed.commands:
                    func, signature = connection._name_to_func(name)
                    connection._run_command(func, signature, list(words), False)
        finally:
            self._moment = None

    # -- refusals

    def refusal(self, command: str, *, is_queueing: bool = False) -> str | None:
        """Why it refuses a command now; None: it does not.

        Args:
            command: Its name, in lower case.
            is_queueing: Whether it comes within a transaction: a full server, but for newer Valkeys, queues none.
        """
        if self.state is None:
            return None
        text, flag, refuses_those = self.state.value
        is_refused = (flag in _flags(command)) is refuses_those
        if is_queueing and self.state is State.FULL and command not in _NOT_QUEUED:
            is_refused = True
        return text if is_refused else None

    def info(self) -> str:
        """What it tells of itself."""
        about = {
            "redis_version": "7.0.15",
            "connected_slaves": str(int(self.replica is not None)),
            "maxmemory_policy": "noeviction",
            "role": "slave" if self.state is State.READ_ONLY else "master",
            "master_replid": self.identity,
        }
        return "".join(f"{name}:{value}\r\n" for name, value in about.items())


@functools.cache
def _flags(command: str) -> frozenset[bytes]:
    info = get_command_info(command.encode())
    return _FLAGS_OF_INFO if info is None else frozenset(info[2])


class _FakeServer(fakeredis.FakeServer):
    """What fakeredis takes for the server; the node is the rest of it."""

    def __init__(self, node: Node) -> None:
        super().__init__(version=(7,))
        self.node = node


class Answering:
    """What a socket of fakeredis does otherwise, sync or async: it executes as the node's state is."""

    _is_dirty = False  # the command that is executed has made a write: nothing more of it is refused
    _is_in_transaction = False
    _writes: list[tuple[str, list[bytes]]]
    """What the command that is executed has written, or its script or transaction: what a replica gets."""
    _words: Sequence[bytes] = ()
    _replied: Any = None

    @property
    def _node(self: Any) -> Node:
        node: Node = self._server.node
        return node

    def _get_server_runtime(self, server: Any) -> ParsesOnce:
        return ParsesOnce(super()._get_server_runtime(server))  # type: ignore[misc] # of fakeredis

    def _name_to_func(self: Any, name: str) -> Any:
        if name == "info":
            return lambda *_: self._node.info().encode(), _INFO
        if name == "wait":
            return lambda *_: int(self._node.replica is not None), _WAIT
        return super()._name_to_func(name)  # type: ignore[misc] # of fakeredis

    def _process_command(self: Any, fields: list[bytes]) -> None:
        courses = self._node.courses
        if courses is None or self._queueing:  # a transaction happens at one moment
            self._execute(fields, None)
        else:
            courses.execute(fields, functools.partial(self._execute, fields))

    def _execute(self: Any, fields: list[bytes], refusal: str | None) -> Any:
        """Execute a command, or refuse it, and return the reply."""
        self._words = fields
        command, _ = extract_command(fields)
        refusal = self._node.refusal(command, is_queueing=self._queueing) or refusal
        if refusal is None:
            super()._process_command(fields)  # type: ignore[misc] # of fakeredis
        else:
            self._transaction_failed = self._queueing
            if command == "exec":
                refusal = self._exec_abort(refusal).value
            self.put_response(self._decode_error(SimpleError(refusal)))
        return self._replied

    def put_response(self: Any, msg: Any) -> None:
        """Reply."""
        self._replied = msg
        self._node.note_told(self._words, msg)
        super().put_response(msg)  # type: ignore[misc] # of fakeredis

    def _run_command(self: Any, func: Any, sig: Signature, args: list[Any], from_script: bool) -> Any:
        if not from_script:
            self._is_dirty = False
        if from_script or self._is_in_transaction:
            return self._unless_refused(func, sig, args, from_script=from_script)
        self._writes, self._is_in_transaction = [], sig.name == "exec"
        try:
            reply = self._unless_refused(func, sig, args, from_script=False)
        finally:
            self._is_in_transaction = False
        if self._writes:
            self._node.note_executed(self._writes)
        return reply

    def _unless_refused(self: Any, func: Any, sig: Signature, args: list[Any], *, from_script: bool) -> Any:
        if sig.name == self._node.forbidden:
            return SimpleError(f"NOPERM this user has no permissions to run the '{sig.name}' command")
        if not self._is_dirty and (refusal := self._node.refusal(sig.name)) is not None:
            return SimpleError(refusal)
        if b"write" in _flags(sig.name):
            self._is_dirty = True
            self._writes.append((sig.name, list(args)))
        return super()._run_command(func, sig, args, from_script)  # type: ignore[misc] # of fakeredis


class _Socket(Answering, FakeSocket):
    """A connection's end at the server."""


class _Connection(fakeredis.FakeRedisConnection):
    """A connection to a node."""

    def _connect(self) -> _Socket:
        return _socket_of(self._server, self._client_info)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """The next reply. One that stands for a broken connection breaks it, as redis-py has it."""
        reply = super().read_response(*args, **options)
        if breaks_connection(reply):
            self.disconnect()  # type: ignore[no-untyped-call] # of redis-py
            raise reply
        return reply


class _AsyncSocket(Answering, AsyncFakeSocket):
    """A connection's end at the server, which executes what was sent one by one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._sent: list[list[bytes]] = []
        super().__init__(*args, **options)

    def _process_command(self, fields: list[bytes]) -> None:
        self._sent.append(fields)

    async def execute_all(self) -> None:
        """Execute what was sent."""
        while self._sent:
            fields = self._sent.pop(0)
            courses: Any = self._node.courses
            execute = functools.partial(self._execute_at_its_time, courses, fields)
            if self._queueing:
                execute(None)
            else:
                await courses.execute_async(fields, execute)

    def _execute_at_its_time(self, courses: Any, fields: list[bytes], refusal: str | None) -> Any:
        with courses.executing(self._node):
            return self._execute(fields, refusal)


class _Writer(aioredis.FakeWriter):
    async def drain(self) -> None:
        if isinstance(self._socket, _AsyncSocket):
            await self._socket.execute_all()


class _AsyncConnection(aioredis.FakeAsyncRedisConnection):
    """A connection to a node, of an event loop."""

    async def _connect(self) -> None:
        options = {"client_class": self._client_class, "client_info": self._client_info}
        self._sock = _AsyncSocket(self._server, self.db, **options)
        self._reader, self._writer = aioredis.FakeReader(self._sock), _Writer(self._sock)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next reply. One that stands for a broken connection breaks it, as redis-py has it."""
        try:
            return await super().read_response(*args, **options)
        except Exception as error:
            if breaks_connection(error):
                await self.disconnect(nowait=True)
            raise


def _socket_of(server: Any, client_info: Any = None) -> _Socket:
    return _Socket(server, client_class=fakeredis.FakeRedis, db=0, client_info=client_info or {})
