"""What was erased is in no file: of the server, of a SQLite archive with its log, of a JSONL directory."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from runstream import DrainWorker, RedisCheckpointer, TieredCheckpointer
from runstream.repair.verify import verify_run
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from tests.support.drain_tools import open_archives
from tests.support.kinds import REAL, short
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import PROGRAMS, eventually

SECRET = "a secret that nobody is to read"


def files_with_it(directory: Path) -> set[str]:
    """The directories below this one that have a file with the secret."""
    found = (path for path in directory.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes())
    return {path.relative_to(directory).parts[0] for path in found}


@pytest.mark.parametrize("name", short(REAL))
def test_a_text_that_was_erased_is_in_no_file_once_that_is_said(name: str, tmp_path: Path) -> None:
    """It was in an event, in a snapshot, and in a question; some of it is archived, some is not."""
    with ExitStack() as opened:
        server = opened.enter_context(EmbeddedServer(str(tmp_path / "server"), program=PROGRAMS[name]))
        client = opened.enter_context(closing(redis.Redis(unix_socket_path=server.socket_path)))
        client.config_set("rdbcompression", "no")
        hot = opened.enter_context(closing(RedisCheckpointer[Any, Any](client)))
        (tmp_path / "archives").mkdir()
        archives: list[Any] = [opened.enter_context(closing(one)) for one in open_archives(tmp_path / "archives")]
        hot.append("r", make_events("r", 3))
        hot.recover("r")
        secret = [make_event("r", 4, payload={"text": SECRET})]
        hot.append("r", secret, snapshot=make_state("r", data={"text": SECRET}))
        DrainWorker(hot, archives, trim="never").drain_once()
        with hot.open_run("r", lane_id="x") as run:
            run.pause({"question": SECRET})
            run.checkpoint()
        hot.append("r", make_events("r", 2, first=5))
        assert files_with_it(tmp_path) == {"server", "archives"}
        cursors = [item.cursor for item in hot.read("r")]
        with closing(TieredCheckpointer(hot, archives[0])) as store:
            erasure = store.erase("r", where=lambda event: SECRET in repr(event.payload), drop_snapshots=True)
            assert not erasure.done
            DrainWorker(hot, archives).drain_once()
            eventually(lambda: all(one.done for one in store.erasures("r")))
            assert files_with_it(tmp_path) == set()
            left = [item.cursor for item in store.read("r")]
            assert left == [cursor for at, cursor in enumerate(cursors, 1) if at not in erasure.offsets()]
        assert verify_run("r", hot=hot, sinks=archives).is_sound
