"""Every operation of a store in a cluster: no command, script or transaction of it touches two slots."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from runstream.operations.operation import Exchange
from runstream.stores.facade import Store
from runstream.stores.redis.command_keys import keys_of
from runstream.stores.redis.connection.single import AsyncSingleServerTransport, SingleServerTransport
from runstream.stores.redis.connection.slots import slot_of_key
from tests.support.backends import Backend
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import needs_server

RUNS = [f"run{number}" for number in range(8)]


def followed(items: Any) -> None:
    """Follow until nothing more is there."""
    with suppress(TimeoutError):
        for _ in items:
            pass


CALLS: dict[str, Callable[[Any], object]] = {
    "save_event": lambda store: store.save_event(make_event("r", 1)),
    "save_events": lambda store: store.save_events([make_event(run_id, 2) for run_id in RUNS]),
    "append": lambda store: store.append(
        "r", make_events("r", 3), keys=["a", None, "b"], snapshot=make_state("r")
    ),
    "save_snapshot": lambda store: store.save_snapshot("r", make_state("r")),
    "load_snapshot": lambda store: store.load_snapshot("r"),
    "load_latest": lambda store: store.load_latest("r"),
    "update_state": lambda store: store.update_state("r", lambda state: state),
    "recover": lambda store: store.recover("r"),
    "read": lambda store: list(store.read("r")),
    "read_at": lambda store: store.read_at("r", [1]),
    "find": lambda store: store.find("r", ["a", "x"]),
    "event_count": lambda store: store.event_count,
    "snapshot_count": lambda store: store.snapshot_count,
    "list_events": lambda store: store.list_events("r"),
    "follow": lambda store: followed(store.follow("r", idle_timeout=0.05)),
    "follow_runs": lambda store: followed(store.follow_runs(idle_timeout=0.05)),
    "lease": lambda store: store.lease("r", owner="me", ttl=60).release(),
    "open_run": lambda store: store.open_run("opened", lease_ttl=30).__exit__(None, None, None),
    "runs": lambda store: list(store.runs()),
    "list_runs": lambda store: store.list_runs(),
    "run_info": lambda store: store.run_info("r"),
    "lanes": lambda store: store.lanes("r"),
    "fork": lambda store: store.fork("r", "fork", at=2),
    "forks": lambda store: store.forks("r"),
    "ancestors": lambda store: store.ancestors("fork"),
    "archiving_health": lambda store: store.archiving_health(),
    "kept_snapshots": lambda store: store.kept_snapshots("r"),
    "diff": lambda store: store.diff("r", "fork"),
    "answer": lambda store: store.answer("asks", "yes"),
    "request_cancel": lambda store: store.request_cancel("asks"),
    "erase": lambda store: store.erase(RUNS[0], [1]),
    "truncate": lambda store: store.truncate(RUNS[1], before=1),
    "erasures": lambda store: store.erasures(RUNS[0]),
    "delete_run": lambda store: store.delete_run(RUNS[2]),
    "forget": lambda store: store.forget("r"),
}


@needs_server
@pytest.mark.parametrize(
    ("kind", "transport"), [("cluster", SingleServerTransport), ("async-cluster", AsyncSingleServerTransport)]
)
def test_no_operation_touches_two_slots_at_a_time(
    make_backend: Callable[[str], Backend], monkeypatch: pytest.MonkeyPatch, kind: str, transport: Any
) -> None:
    sent: list[Exchange] = []
    exchange = transport.exchange

    def noted(server: Any, asked: Exchange) -> Any:
        sent.append(asked)
        return exchange(server, asked)

    monkeypatch.setattr(transport, "exchange", noted)
    store: Any = make_backend(kind).open()
    with store.open_run("asks") as agent:
        agent.pause("Ship it?")
    for name, call in CALLS.items():
        before = len(sent)
        call(store)
        assert name == "forget" or len(sent) > before, f"{name} asked nothing"
    public = {name for name in vars(Store) if not name.startswith("_")}
    assert public <= CALLS.keys()
    touched: set[int] = set()
    for asked in sent:
        slots = [{slot_of_key(key) for key in keys_of(command)} for command in asked.commands]
        assert all(len(of_command) <= 1 for of_command in slots), asked.commands
        assert not asked.atomic or len(set().union(*slots)) <= 1, asked.commands
        touched.update(*slots)
    assert len(touched) > len(RUNS) // 2
