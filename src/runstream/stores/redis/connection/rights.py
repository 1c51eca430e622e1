"""Find out what a client's user may do, before a script is run that would be refused in its midst.

A script is atomic, but not undone: where the server refuses one of its commands, what it did before stands. So the
first call of a script over a pool is preceded by a question, one round trip, and never again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from redis import exceptions

from runstream.model.errors import ConfigurationError
from runstream.operations.operation import Command, Exchange, Refusal, Replies
from runstream.stores.redis.connection.errors import is_right_refused
from runstream.stores.redis.keys import PartitionKeys, hash_tag
from runstream.stores.redis.scripts.library import RIGHTS
from runstream.stores.redis.scripts.script import Script, script_call, script_of

__all__ = ["Rights", "rights_of"]

_ASKING = (b"ASKING",)


class Rights:
    """What the user of a connection pool has been shown to be allowed.

    Args:
        user: The name of the user.
    """

    def __init__(self, user: str) -> None:
        self.user = user
        self._proven: set[str] = set()
        self._allowed: frozenset[str] = frozenset()

    def cover(self, commands: Sequence[Command]) -> bool:
        """Whether all scripts among these commands may be run, as far as is known."""
        proven = self._proven
        for command in commands:
            if command[0] == b"EVALSHA" and command[1] not in proven and command[1].needs:
                return False
        return True

    def question(self, commands: Sequence[Command]) -> Sequence[Command]:
        """The commands that ask whether the scripts among these commands may be run; they change nothing."""
        asked = self._asked(commands)
        names = sorted(frozenset().union(*(script.needs for script, _ in asked)) - self._allowed)
        # all keys of a partition, or of a namespace, have the tag that this one has
        key = PartitionKeys(hash_tag(asked[0][1])).rights
        load, call = (b"SCRIPT", b"LOAD", RIGHTS.source), script_call(RIGHTS, (key,), names)
        # asked of a server that is about to have these keys
        return (load, _ASKING, call) if _ASKING in commands else (load, call)

    def hear(self, commands: Sequence[Command], replies: Replies) -> ConfigurationError | None:
        """Note the replies to the question.

        Returns:
            What is missing; None: the scripts may be run.

        Raises:
            RedisError: The server could not say.
        """
        loaded, *_, reply = replies
        missing: dict[str, str] = {}
        for name, said in (("SCRIPT", loaded), ("EVALSHA", reply)):
            if not isinstance(said, exceptions.ResponseError):
                continue
            if is_right_refused(said):
                missing[name] = "server" if "nknown" in str(said) else "user"
            elif not (missing and isinstance(said, exceptions.NoScriptError)):
                raise said
        if isinstance(reply, list):
            words = [_text(word) for word in reply]
            missing.update(zip(words[::2], words[1::2], strict=True))
        if missing:
            return self._error(missing)
        asked = [script for script, _ in self._asked(commands)]
        self._allowed = self._allowed.union(*(script.needs for script in asked))
        self._proven.update(asked)
        return None

    def doubt(self, replies: Iterable[object]) -> None:
        """Forget all if one of these replies shows that a right is missing which was there."""
        if any(isinstance(reply, exceptions.ResponseError) and is_right_refused(reply) for reply in replies):
            self._proven, self._allowed = set(), frozenset()

    @staticmethod
    def _asked(commands: Sequence[Command]) -> list[tuple[Script, str]]:
        """The scripts among these commands, and the first key of each."""
        called = [(script, command) for command in commands if (script := script_of(command)) is not None]
        return [(script, _text(command[3])) for script, command in called]

    def _error(self, missing: dict[str, str]) -> ConfigurationError:
        said = []
        if denied := sorted(name for name, whom in missing.items() if whom == "user"):
            rules = " ".join(f"+{name.lower()}" for name in denied)
            said.append(
                f"the user {self.user!r} may not call {', '.join(denied)}: ask whoever keeps the users of the"
                f" server for them (ACL SETUSER {self.user} {rules})"
            )
        if unknown := sorted(name for name, whom in missing.items() if whom == "server"):
            said.append(
                f"the server has no {', '.join(unknown)}: ask whoever runs it to leave them their names"
                " (rename-command in its configuration)"
            )
        return ConfigurationError(f"{'; '.join(said)}; runstream needs them for this, and nothing was written")


def refused(error: ConfigurationError, exchange: Exchange) -> Replies:
    """The replies to an exchange of which nothing was sent. Raises the error where that is not tolerated."""
    if not exchange.permissive:
        raise error
    return [Refusal(error, is_denied=True) for _ in exchange.commands]


def _text(word: Any) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


_RIGHTS: WeakKeyDictionary[Any, Rights] = WeakKeyDictionary()
"""By connection pool."""


def rights_of(client: Any) -> Rights:
    """What the user of a client's pool has been shown to be allowed; stores over one pool share it."""
    pool = client.connection_pool
    return _RIGHTS.setdefault(pool, Rights(pool.connection_kwargs.get("username") or "default"))
