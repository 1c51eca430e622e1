"""A writer waits for a server that is to be promoted, for as long as it was told."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    JSONLCheckpointer,
    RedisCheckpointer,
    StoreUnavailable,
    TieredCheckpointer,
    connect,
)
from runstream.history.merged import MergedRun
from runstream.testing import Fault, FaultProxy
from tests.faults.failover.failover_tools import Hot, on_every_pair, spans, spans_of, until_taken
from tests.support.samples import make_events
from tests.support.servers import DEADLINE_SECONDS, Pair, eventually, needs_server

pytestmark = needs_server


def test_a_replica_that_lags_has_lost_nothing(pair: Pair, hot: Hot, opened: ExitStack) -> None:
    """Who reads there at a place that it does not have yet is not told of a loss."""
    hot.append("r", make_events("r", 3))
    pair.replicate()
    pair.cut()
    cursor = hot.append("r", make_events("r", 4)).cursor
    assert len(spans(hot)) == 7
    behind: Hot = RedisCheckpointer(pair.replica_client(), retry_seconds=0.1)
    assert len(spans(behind)) == 3
    with pytest.raises(StoreUnavailable):
        list(behind.read("r", cursor))
    assert hot.append("r", make_events("r", 1)).first_offset == 8


def test_an_export_from_a_replica_that_lags_has_lost_nothing(pair: Pair, hot: Hot, tmp_path: Path) -> None:
    """Whether the archive was ahead of the replica before, or has come to be while the run was read."""
    hot.append("r", make_events("r", 3))
    pair.replicate()
    pair.cut()
    behind: Hot = RedisCheckpointer(pair.replica_client(), retry_seconds=0.1)
    with JSONLCheckpointer[Any, Any](tmp_path / "archive") as archive:
        tiered = TieredCheckpointer(behind, archive)
        DrainWorker(hot, [archive]).drain_once()
        merged = MergedRun.load(tiered, "r")
        assert merged is not None
        hot.append("r", make_events("r", 4))
        DrainWorker(hot, [archive]).drain_once()
        with pytest.raises(StoreUnavailable, match="lags behind"):
            list(merged.entries())
        with pytest.raises(StoreUnavailable, match="lags behind"):
            MergedRun.load(tiered, "r")


# -- in the middle of it


def test_a_writer_waits_for_the_promotion(pair: Pair, hot: Hot) -> None:
    """What it sends to a replica is refused, and sent again until there is a primary."""
    hot.append("r", make_events("r", 3))
    pair.replicate()
    pair.cut()
    pair.lose_primary()
    refused = pair.primary.raw.info("stats")["total_error_replies"]
    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(hot.append, "r", make_events("r", 2))
        eventually(lambda: pair.primary.raw.info("stats")["total_error_replies"] > refused)
        pair.promote()
        assert appending.result(DEADLINE_SECONDS)[:2] == (4, 5)
    assert len(spans(hot)) == 5


def test_a_writer_waits_for_a_server_that_serves_nothing_yet(pair: Pair, hot: Hot) -> None:
    """A replica without its primary that answers MASTERDOWN to everything, until it is promoted."""
    hot.append("r", make_events("r", 3))
    pair.replicate()
    pair.replica.raw.config_set("replica-serve-stale-data", "no")
    pair.cut()
    pair.lose_primary()
    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(hot.append, "r", make_events("r", 2))
        eventually(lambda: "errorstat_MASTERDOWN" in pair.primary.raw.info("errorstats"))
        pair.promote()
        assert appending.result(DEADLINE_SECONDS)[:2] == (4, 5)
    assert len(spans(hot)) == 5


def test_a_writer_waits_no_longer_than_it_was_told(pair: Pair, opened: ExitStack) -> None:
    """Then it says that it may be tried again."""
    store: Hot = RedisCheckpointer(pair.client(), retry_seconds=0.5)
    store.append("r", make_events("r", 1))
    pair.replicate()
    pair.cut()
    pair.lose_primary()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.append("r", make_events("r", 1))
    assert time.monotonic() - began < 5


@pytest.mark.one_in(3)
@on_every_pair
@pytest.mark.parametrize("replicated", [True, False], ids=["replicated", "lost"])
def test_what_got_no_reply_before_the_failover_is_applied_once_after_it(
    pair: Pair, opened: ExitStack, replicated: bool
) -> None:
    """Whether the replica has it or not: it was not acknowledged, so its loss is none."""
    proxy = opened.enter_context(FaultProxy(pair.url))
    hot = opened.enter_context(connect(proxy.url, partitions=1, retry_seconds=0))
    first, second = make_events("r", 3), make_events("r", 2)
    hot.append("r", first)
    pair.replicate()
    if not replicated:
        pair.cut()
    proxy.arm(Fault.DROP_REPLY)
    with pytest.raises(StoreUnavailable):
        hot.append("r", second)
    if replicated:
        pair.replicate()
    pair.promote()
    # connections to the old primary end one by one
    assert until_taken(lambda: hot.append("r", second))[:2] == (4, 5)
    assert spans(hot) == spans_of(first + second)
