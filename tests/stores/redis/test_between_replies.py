"""What others do between two commands of one exchange, which a server takes in one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fakeredis
import pytest

from runstream import ConfigurationError, RedisCheckpointer
from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.connection.single import SingleServerTransport
from tests.support.samples import make_event


class InTwoParts(SingleServerTransport):
    """Lets something happen once, before the first command that reads the tags of a run."""

    meanwhile: Sequence[Callable[[], object]] = ()

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange, in two parts where something is to happen between them."""
        names = [bytes(command[1]) if len(command) > 1 else b"" for command in map(_encoded, exchange.commands)]
        at = next((index for index, name in enumerate(names) if name.endswith(b":tags")), None)
        if not self.meanwhile or at is None or exchange.atomic:
            return super().exchange(exchange)
        (meanwhile,), self.meanwhile = self.meanwhile, ()
        before = super().exchange(exchange._replace(commands=exchange.commands[:at])) if at else []
        meanwhile()
        return [*before, *super().exchange(exchange._replace(commands=exchange.commands[at:]))]


def _encoded(command: Any) -> list[bytes]:
    return [part if isinstance(part, bytes) else str(part).encode() for part in command[:2]]


@pytest.mark.parametrize("is_made_anew", [False, True], ids=["deleted", "made anew"])
@pytest.mark.parametrize("what", ["fork", "list"])
def test_a_run_that_is_deleted_meanwhile_is_not_damaged(
    what: str, is_made_anew: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = fakeredis.FakeServer(version=(7,))
    transport = InTwoParts(fakeredis.FakeRedis(server=server))
    store: RedisCheckpointer[Any, Any] = RedisCheckpointer(transport, partitions=2)
    other: RedisCheckpointer[Any, Any] = RedisCheckpointer(fakeredis.FakeRedis(server=server), partitions=2)
    other.append("r", [make_event("r", 1)], tags={"user": "1"})

    def meanwhile() -> None:
        other.delete_run("r")
        if is_made_anew:
            other.append("r", [make_event("r", 1)], tags={"user": "2"})

    transport.meanwhile = [meanwhile]
    if what == "list":
        assert [run.tags for run in store.runs()] == [{"user": "2"}] * is_made_anew
    elif is_made_anew:
        assert store.fork("r", "f").tags == {"user": "2"}
    else:
        with pytest.raises(ConfigurationError, match="there is no run 'r'"):
            store.fork("r", "f")
    assert not transport.meanwhile
    assert not caplog.records
