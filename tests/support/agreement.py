"""What simulated servers were told in games, played on real ones, whose replies are to be the same.

A script gets on the real server what it would not learn there: the simulated time, to the microsecond, and the
simulated identity. It is sent with something before it that answers its ``TIME`` and ``INFO`` from the recording.
What is to expire is to expire so much later that the real server never lets it: :class:`_Expiry` does, in
simulated time. All else is the real server's own, and is compared as :func:`_is_same` says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha1
from itertools import chain
from typing import Any

import pytest
from redis.exceptions import RedisError

from runstream.operations.operation import Replies
from runstream.stores.redis.scripts.library import RIGHTS, SCRIPTS
from runstream.testing.simulation import Choices, Plan, play
from runstream.testing.simulation.game import Game
from runstream.testing.simulation.node import Node, State, Told, _socket_of
from runstream.testing.simulation.server import SimulatedServer
from tests.support.real_states import RealServer, reply_of

__all__ = ["differences", "name_of", "record"]

_LATER_MS = 100 * 366 * 86_400_000
_PRELUDE = (
    "local redis = (function(real, identity, microseconds, seconds)"
    " local function of(call) return function(name, ...)"
    " if name == 'TIME' then return {seconds, microseconds} end"
    " if name == 'INFO' then return 'master_replid:' .. identity end"
    " if name ~= 'PEXPIRE' then return call(name, ...) end"
    " local key, milliseconds = ..."
    " return call('PEXPIREAT', key, string.format('%.0f',"
    f" seconds * 1000 + math.floor(microseconds / 1000) + milliseconds + {_LATER_MS}))"
    " end end"
    " return setmetatable({call = of(real.call), pcall = of(real.pcall)}, {__index = real})"
    " end)(redis, table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)) "
).encode()
_CODE = re.compile(r"\b(?:OOM|READONLY|MISCONF|LOADING|BUSY)\b")
_NAMES = {str(script): script.name for script in (*SCRIPTS, RIGHTS)}
_MOST_SECONDS_BETWEEN = 60.0  # a command and the look at its reply
_SOURCES = {script.encode(): script.source.encode() for script in (*SCRIPTS, RIGHTS)}


def record(plan: Plan, seed: int, *, in_states: bool = False) -> list[list[Told]]:
    """Play a game; in the end each server is asked for all that it has.

    Args:
        plan: Who takes part.
        seed: Of the game.
        in_states: Before that, the last primary is told one of each command again in each state.

    Returns:
        What each server was told.
    """
    nodes: list[Node] = []
    make, close = SimulatedServer._new_node, Game.close

    def make_noting(server: SimulatedServer) -> Node:
        nodes.append(node := make(server))
        node.told = []
        return node

    def close_asking(game: Game) -> None:
        game.world.be_calm()
        server = game.world.server
        if in_states:
            server.execute(partial(_ask_in_states, server.primary))
        for node in nodes:
            server.execute(partial(_ask_for_all, node), node)
        close(game)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SimulatedServer, "_new_node", make_noting)
        patched.setattr(Game, "close", close_asking)
        assert not play(plan, Choices(seed)).faults
    return [node.told or [] for node in nodes]


_CONTENTS: dict[bytes, Callable[[bytes], tuple[bytes, ...]]] = {
    b"hash": lambda key: (b"HGETALL", key),
    b"zset": lambda key: (b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"),
    b"stream": lambda key: (b"XRANGE", key, b"-", b"+"),
}


def _ask_for_all(node: Node) -> Replies:
    """Ask a server for its keys, with all that is in them, and when they expire."""
    client: Any = node.client()
    _, keys = client.execute_command(b"SCAN", b"0", b"COUNT", b"100000")
    for key in sorted(keys):
        kind = client.execute_command(b"TYPE", key)
        client.execute_command(*_CONTENTS[kind](key))
        client.execute_command(b"PTTL", key)
        if kind == b"stream":
            client.execute_command(b"XINFO", b"STREAM", key)
    return []


def _ask_in_states(node: Node) -> Replies:
    """Tell a server again, in each state, the last of each command and of the calls of each script."""
    assert node.told is not None
    alone = {name_of(one): one.words for one in node.told if one.reply != b"QUEUED"}
    queued = {name_of(one): one.words for one in node.told if one.reply == b"QUEUED"}
    exchanges = [[words] for name, words in alone.items() if name not in ("MULTI", "EXEC")]
    exchanges += [[(b"MULTI",), words, (b"EXEC",)] for words in queued.values()]
    socket: Any = _socket_of(node.fake)  # a client would connect anew after some refusals
    socket._process_command([b"HELLO", b"3"])
    for source in _SOURCES.values():
        socket._process_command([b"SCRIPT", b"LOAD", source])
    for node.state in State:
        for words in chain.from_iterable(exchanges):
            socket._process_command(list(words))
    node.state = None
    return []


def differences(server: RealServer, told: Sequence[Told]) -> Iterator[str]:
    """Play on a real server what a simulated one was told; tell of each reply that differs.

    Args:
        server: It is emptied first.
        told: All that the simulated server was told.
    """
    server.empty()
    expiry, queued, identity = _Expiry(server.raw), list[Told](), ""
    for chunk in expiry.chunks(_once_while_loading(told)):
        if chunk[0].identity != identity:  # it was restarted, or has become the primary
            server.raw.script_flush()
            identity = chunk[0].identity
        with server.in_state(chunk[0].state) as connection:
            connection.send_packed_command(connection.pack_commands([_words_there(one) for one in chunk]))
            replies = [reply_of(connection) for _ in chunk]
        for one, there in zip(chunk, replies, strict=True):
            if not (
                _is_same(one, queued, there) or (server.name == "valkey" and _is_queued_by_valkey(one, there))
            ):
                told_more = b" ".join(one.words[1:4])[:100]
                yield f"{name_of(one)} {told_more!r}, {one.state}: {_shown(one.reply)}, and there {_shown(there)}"
            _note_queued(queued, one)


def _once_while_loading(told: Iterable[Told]) -> Iterator[Told]:
    """What was told, but one of each sort of exchanges alone with a server that loads, which looks at none.

    A real one is not in this state for as long as one likes.
    """
    seen: set[tuple[str, ...]] = set()
    exchange: list[Told] = []
    for one in told:
        exchange.append(one)
        if name_of(exchange[0]) == "MULTI" and name_of(one) != "EXEC":
            continue
        names = tuple(map(name_of, exchange))
        if one.state is not State.LOADING or names not in seen:
            yield from exchange
            seen |= {names} if one.state is State.LOADING else set()
        exchange = []
    yield from exchange


class _Expiry:
    """Lets the keys of a real server expire in simulated time.

    Args:
        raw: A client of the server.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._next = float("inf")  # Unix time in seconds

    def chunks(self, told: Iterable[Told]) -> Iterator[list[Told]]:
        """Commands that may be sent at once: to one server, in one state, and nothing expires meanwhile."""
        chunk: list[Told] = []
        for one in told:
            if chunk and (self._parts(chunk[-1], one) or (one.identity, one.state) != chunk[-1][1:3]):
                yield chunk
                if one.at >= self._next or any(map(_lets_expire, chunk)):
                    self._look(one.at)
                chunk = []
            chunk.append(one)
        yield chunk

    def _parts(self, last: Told, one: Told) -> bool:
        return one.state is None and (one.at >= self._next or _lets_expire(last))

    def _look(self, at: float) -> None:
        """Remove what has expired, and find out what expires next."""
        deadlines = {}
        for key in self._raw.scan_iter():
            if (left := self._raw.pttl(key)) > 0:
                deadlines[key] = time.time() + (left - _LATER_MS) / 1_000
        for key, deadline in deadlines.items():
            if deadline <= at:
                self._raw.delete(key)
        self._next = min((deadline for deadline in deadlines.values() if deadline > at), default=float("inf"))


def _lets_expire(told: Told) -> bool:
    name = told.words[0].upper()
    source = _SOURCES.get(told.words[1], b"") if name == b"EVALSHA" else b""
    return name == b"PEXPIRE" or b"'PEXPIRE'" in source


def _words_there(told: Told) -> Sequence[bytes]:
    """The words that say to the real server what the simulated one was told."""
    words, microseconds = told.words, round(told.at * 1_000_000)
    match words[0].upper(), *words[1:]:
        case b"SCRIPT", load, source if load.upper() == b"LOAD":
            return (*words[:2], _PRELUDE + source)
        case b"EVALSHA", digest, *rest if digest in _SOURCES:
            seconds, rest_of_it = divmod(microseconds, 1_000_000)
            about = (b"%d" % seconds, b"%d" % rest_of_it, told.identity.encode())
            return (words[0], _digest(_PRELUDE + _SOURCES[digest]), *rest, *about)
        case b"PEXPIRE", key, milliseconds:
            return (b"PEXPIREAT", key, b"%d" % (microseconds // 1_000 + int(milliseconds) + _LATER_MS))
    return words


def name_of(told: Told) -> str:
    """The name of a command, or of the script that it calls."""
    return _NAMES.get(
        told.words[1].decode(errors="replace") if len(told.words) > 1 else "", told.words[0].decode()
    )


def _digest(script: bytes) -> bytes:
    return sha1(script, usedforsecurity=False).hexdigest().encode()


def _note_queued(queued: list[Told], told: Told) -> None:
    """Keep the commands of a transaction that is begun."""
    name = told.words[0].upper()
    if name in (b"MULTI", b"EXEC", b"DISCARD"):
        queued.clear()
    elif told.reply == b"QUEUED":
        queued.append(told)


def _is_same(told: Told, queued: Sequence[Told], there: Any) -> bool:
    """Whether a real server has replied what the simulated one did: byte for byte, but for what is named here.

    Of errors the code is compared, as each version has texts of its own, and of the replies in
    :data:`_NOT_BYTE_FOR_BYTE` what is said there. ``CLIENT SETINFO`` is not: older servers have none, and nobody
    looks at the reply. ``CONFIG`` is not either: the simulated server is one whose operator has taken that away.
    """
    here, name = told.reply, told.words[0].upper()
    if name in (b"CLIENT", b"CONFIG"):
        return True
    if isinstance(here, RedisError) or isinstance(there, RedisError):
        return _code(here) == _code(there)
    if name == b"EXEC":
        several = zip(queued, here, there, strict=True)
        return all(_is_same(one._replace(reply=reply), (), other) for one, reply, other in several)
    is_same = _NOT_BYTE_FOR_BYTE.get(name_of(told).upper().encode())
    if is_same is None or there == b"QUEUED":
        return type(here) is type(there) and bool(here == there)
    return is_same(told, there)


def _code(reply: Any) -> str | None:
    """The code of an error; of one that an older server made of what a script was refused, that of the refusal."""
    if not isinstance(reply, RedisError):
        return None
    if (code := getattr(reply, "status_code", None)) in (None, "ERR"):
        found = _CODE.search(str(reply))
        return found[0] if found else str(reply)
    return str(code)


def _is_queued_by_valkey(told: Told, there: Any) -> bool:
    """Whether it is what Valkey 9 does and Redis does not: queue commands of a transaction when it is full."""
    return told.state is State.FULL and (there == b"QUEUED" or told.words[0].upper() == b"EXEC")


def _is_same_time(told: Told, there: Any) -> bool:
    parts = [*told.reply, *there]
    return len(parts) == 4 and all(isinstance(part, bytes) and part.isdigit() for part in parts)


def _is_same_deadline(told: Told, there: int) -> bool:
    if told.reply < 0:
        return bool(told.reply == there)
    ahead = told.at + told.reply / 1_000 - (time.time() + (there - _LATER_MS) / 1_000)
    return bool(abs(ahead) < _MOST_SECONDS_BETWEEN)


def _facts(info: bytes) -> dict[bytes, bytes]:
    facts = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return {name: value for name, value in facts.items() if name in (b"maxmemory_policy", b"role")}


def _of_stream(info: Any) -> list[Any]:
    told = info if isinstance(info, dict) else dict(zip(info[::2], info[1::2], strict=True))
    return [told[b"length"], told[b"last-generated-id"]]


def _pairs(reply: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return sorted(zip(reply[::2], reply[1::2], strict=True))


_NOT_BYTE_FOR_BYTE: dict[bytes, Callable[[Told, Any], bool]] = {
    # it is not the simulated one: the form
    b"TIME": _is_same_time,
    # the game's replica is none of the real server: that it may be asked
    b"WAIT": lambda told, there: isinstance(there, int),
    # nobody looks at it
    b"HELLO": lambda told, there: True,
    # each section has some of the facts; of versions and identities nothing is compared
    b"INFO": lambda told, there: _facts(told.reply).items() >= _facts(there).items(),
    # the order, which is the server's own (and so is where pages end, but no game has more than one)
    b"SCAN": lambda told, there: (told.reply[0], sorted(told.reply[1])) == (there[0], sorted(there[1])),
    # of a hash too, where a script gives one as it is
    b"LOAD": lambda told, there: _pairs(told.reply) == _pairs(there),
    b"ENLIST": lambda told, there: _pairs(told.reply) == _pairs(there),
    # the real one got another script
    b"SCRIPT": lambda told, there: (
        told.reply == _digest(told.words[2]) and there == _digest(_PRELUDE + told.words[2])
    ),
    # each version has facts of its own, and nobody but this test asks
    b"XINFO": lambda told, there: _of_stream(told.reply) == _of_stream(there),
    # real time passes
    b"PTTL": _is_same_deadline,
}


def _shown(reply: Any) -> str:
    return f"{type(reply).__name__}: {reply}" if isinstance(reply, RedisError) else repr(reply)[:500]
