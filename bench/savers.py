"""What a LangGraph program gains or loses by our checkpointer: the calls that graphs make, on ours and on others.

    python bench/savers.py [--quick] [--only TEXT]

Real graphs run once, and the calls that they make of their checkpointer are noted; then each saver gets the same
calls, round by round and in turns, on one server. A ratio is how many times as long ours takes as the fastest of
the others that keep threads in the same place: below 1 ours is faster. Bytes are what the server's memory and the
files grow by, for each checkpoint; the archive's after one drain. Savers that are not installed are named and left
out.

"cold" is the first get_tuple of a process that has not seen the thread. Of what is only read once in a round, the
median of five is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import operator
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import redis
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

import runstream
from bench import bench_server
from runstream.integrations.langgraph import AsyncRunstreamSaver, RunstreamSaver

CHATS = 32
READS = 5
KINDS = ("put", "put_writes", "get_tuple", "cold", "get_tuple of an old one", "list of 10")


# -- the calls that graphs make ------------------------------------------------------------------------


class Call(NamedTuple):
    """A call of a checkpointer: its arguments but for the config, and what of that counts."""

    method: str
    config: Mapping[str, Any]
    arguments: Sequence[Any]

    def of(self, saver: Any, thread_id: str, prefix: str = "") -> Any:
        """Make it, for another thread; of an async saver's method, ``prefix`` is 'a'."""
        config = {"configurable": {**self.config, "thread_id": thread_id}}
        return getattr(saver, prefix + self.method)(config, *self.arguments)


class Recorder(InMemorySaver):
    """Notes the calls that a graph makes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def _note(self, method: str, config: Any, *arguments: Any) -> None:
        configured = config["configurable"]
        names = ("checkpoint_ns", "checkpoint_id")
        own = {name: configured[name] for name in names if configured.get(name) is not None}
        self.calls.append(Call(method, {"checkpoint_ns": "", **own}, arguments))

    def put(self, config: Any, *arguments: Any) -> Any:
        self._note("put", config, *arguments)
        return super().put(config, *arguments)

    def put_writes(self, config: Any, *arguments: Any) -> None:
        self._note("put_writes", config, *arguments)
        super().put_writes(config, *arguments)

    def get_tuple(self, config: Any) -> Any:
        self._note("get_tuple", config)
        return super().get_tuple(config)


class Chat(TypedDict):
    """Messages."""

    messages: Annotated[list[AnyMessage], add_messages]


class Work(TypedDict):
    """A document, and how many steps there were."""

    document: str
    steps: Annotated[int, operator.add]


def text(size: int, number: int) -> str:
    """A text of so many characters that no two numbers share, and that does not shrink much."""
    words = "".join(uuid.uuid5(uuid.NAMESPACE_OID, f"{number} {part}").hex for part in range(size // 32 + 1))
    return words[:size]


def chat(turns: int) -> list[Call]:
    """The calls of a chat, of 1 KB in each turn."""

    def answer(state: Chat) -> dict[str, Any]:
        number = len(state["messages"])
        return {"messages": [AIMessage(text(512, number), id=f"answer-{number}")]}

    builder = StateGraph(Chat)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    asked = ({"messages": [HumanMessage(text(512, -turn), id=f"question-{turn}")]} for turn in range(turns))
    return recorded(builder, asked)


def large(steps: int, *, changes: bool) -> list[Call]:
    """The calls of a graph with a document of 100 KB that stays, or is another one in each step."""

    def work(state: Work) -> dict[str, Any]:
        changed = {"document": text(100_000, state["steps"])} if changes else {}
        return {"steps": 1, **changed}

    builder = StateGraph(Work)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    return recorded(builder, [{"document": text(100_000, 0), "steps": 0}, *[{"steps": 0}] * (steps - 1)])


def recorded(builder: Any, inputs: Any) -> list[Call]:
    recorder = Recorder()
    graph = builder.compile(checkpointer=recorder)
    for given in inputs:
        graph.invoke(given, {"configurable": {"thread_id": "recorded"}}, durability="sync")
    return recorder.calls


# -- the savers ----------------------------------------------------------------------------------------


@dataclass
class Side:
    """A saver that takes part.

    Attributes:
        name: Its name, for people.
        place: 'Redis' or 'a file'.
        open: Opens it, as a process of its own does.
        open_async: The same of the async one.
        settle: Brings what it has written to where it stays.
        files: Where it writes, besides the server.
    """

    name: str
    place: str
    open: Callable[[], Any]
    open_async: Callable[[], Any]
    settle: Callable[[], object] = lambda: None
    files: tuple[Path, ...] = ()

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("runstream")

    def bytes_in_files(self) -> int:
        found = (Path(f"{path}{end}") for path in self.files for end in ("", "-wal"))
        return sum(path.stat().st_size for path in found if path.exists())


def ours(url: str, directory: Path) -> Iterator[Side]:
    archive = directory / "archive.db"

    def drain() -> None:
        hot: Any = runstream.connect(f"{url}?namespace=langgraph")
        sink: Any = runstream.connect(f"sqlite:{archive}")
        with hot, sink:
            runstream.DrainWorker(hot, [sink]).drain_once()

    yield Side(
        "runstream, Redis and archive",
        "Redis",
        lambda: RunstreamSaver.from_url(url, archive=f"sqlite:{archive}"),
        lambda: AsyncRunstreamSaver.from_url(url, archive=f"sqlite:{archive}"),
        drain,
        (archive,),
    )
    own = directory / "ours.db"
    yield Side(
        "runstream, sqlite:",
        "a file",
        lambda: RunstreamSaver.from_url(f"sqlite:{own}"),
        lambda: AsyncRunstreamSaver.from_url(f"sqlite:{own}"),
        files=(own,),
    )


def theirs(server: str, directory: Path, say: Callable[[str], object]) -> Iterator[Side]:
    """The others, as far as they are installed."""
    try:
        from langgraph.checkpoint.sqlite import SqliteSaver  # noqa: PLC0415 - it may be missing
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - likewise
    except ImportError:
        say("langgraph-checkpoint-sqlite is not installed")
    else:
        path = directory / "theirs.db"
        yield Side(
            "checkpoint-sqlite",
            "a file",
            lambda: SqliteSaver.from_conn_string(str(path)),
            lambda: AsyncSqliteSaver.from_conn_string(str(path)),
            files=(path,),
        )
    try:
        import langgraph_checkpoint_plainredis as plain  # noqa: PLC0415 - it may be missing
    except ImportError:
        say("langgraph-checkpoint-plainredis is not installed")
    else:
        yield Side("plainredis", "Redis", closed(plain.RedisSaver, server), aclosed(plain.AsyncRedisSaver, server))
    try:
        from langgraph_checkpoint_aws import AsyncValkeySaver, ValkeySaver  # noqa: PLC0415 - it may be missing
    except ImportError:
        say("langgraph-checkpoint-aws\\[valkey] is not installed")
    else:
        yield Side(
            "checkpoint-aws",
            "Redis",
            lambda: ValkeySaver.from_conn_string(server),
            lambda: AsyncValkeySaver.from_conn_string(server, pool_size=2 * CHATS),
        )


def closed(kind: Any, server: str) -> Callable[[], Any]:
    @contextmanager
    def opening() -> Iterator[Any]:
        saver = kind(url=server)
        try:
            yield saver
        finally:
            saver.close()

    return opening


def aclosed(kind: Any, server: str) -> Callable[[], Any]:
    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        saver = kind(url=server)
        try:
            yield saver
        finally:
            await saver.aclose()

    return opening


# -- the figures ---------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What one saver took, round by round: milliseconds for each call, and bytes for each checkpoint."""

    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    in_redis: float = 0.0
    in_files: float = 0.0


def once(side: Side, client: redis.Redis, calls: Sequence[Call], figures: Figures) -> None:
    """One round of one saver, with a thread of its own."""
    gc.collect()
    thread_id, took = uuid.uuid4().hex, dict.fromkeys(KINDS, 0.0)
    latest = Call("get_tuple", {"checkpoint_ns": ""}, ())
    with side.open() as saver:
        latest.of(saver, "no such thread")  # it is connected
        memory, files = used_memory(client), side.bytes_in_files()
        for call in calls:
            took[call.method] += seconds(partial(call.of, saver, thread_id))
        in_redis = used_memory(client) - memory
        olds = [call.arguments[0]["id"] for call in calls[len(calls) // 2 :] if call.method == "put"][:READS]
        old_ones = [Call("get_tuple", {"checkpoint_ns": "", "checkpoint_id": old}, ()) for old in olds]
        took["get_tuple of an old one"] = median_of(partial(old.of, saver, thread_id) for old in old_ones)
        config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        took["list of 10"] = median_of([lambda: list(saver.list(config, limit=10))] * READS)
    colds = []
    for _ in range(READS):
        with side.open() as saver:
            latest.of(saver, "no such thread")
            colds.append(seconds(partial(latest.of, saver, thread_id)))
    took["cold"] = statistics.median(colds)
    side.settle()
    counts = {kind: max(1, sum(call.method == kind for call in calls)) for kind in KINDS}
    for kind in KINDS:
        figures.milliseconds.setdefault(kind, []).append(1000 * took[kind] / counts[kind])
    figures.in_redis = in_redis / counts["put"]
    figures.in_files = (side.bytes_in_files() - files) / counts["put"]


async def at_once(side: Side, calls: Sequence[Call]) -> float:
    """How many calls a second 32 chats make at once in one process."""
    gc.collect()
    async with AsyncExitStack() as opened:
        saver = await opened.enter_async_context(side.open_async())
        await Call("get_tuple", {"checkpoint_ns": ""}, ()).of(saver, "no such thread", "a")

        async def talk() -> None:
            thread_id = uuid.uuid4().hex
            for call in calls:
                await call.of(saver, thread_id, "a")

        begun = time.perf_counter()
        await asyncio.gather(*(talk() for _ in range(CHATS)))
        return CHATS * len(calls) / (time.perf_counter() - begun)


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def median_of(works: Iterable[Callable[[], object]]) -> float:
    return statistics.median(map(seconds, works))


def used_memory(client: redis.Redis) -> int:
    found: Any = client.info("memory")
    return int(found["used_memory"])


def fastest(side: Side, figures: Mapping[str, Figures], sides: Sequence[Side], kind: str) -> str:
    """How many times as long ours takes as the fastest of the others in the same place."""
    others = [figures[one.name].milliseconds[kind] for one in sides if one.place == side.place and not one.is_ours]
    if not others:
        return ""
    best = min(others, key=statistics.median)
    pairs = zip(figures[side.name].milliseconds[kind], best, strict=True)
    return f" ({statistics.median(a / b for a, b in pairs):.2f})"


def table_of(what: str, figures: Mapping[str, Figures], sides: Sequence[Side]) -> Table:
    headings = [Column(kind, justify="right") for kind in (*KINDS, "KB in Redis", "KB in files")]
    table = Table(
        Column("ms for each call", no_wrap=True), *headings, title=what, title_justify="left", box=SIMPLE
    )
    for side in sides:
        own = figures[side.name]
        cells = []
        for kind in KINDS:
            ratio = fastest(side, figures, sides, kind) if side.is_ours else ""
            cells.append(f"{statistics.median(own.milliseconds[kind]):.2f}{ratio}")
        table.add_row(side.name, *cells, f"{own.in_redis / 1000:.1f}", f"{own.in_files / 1000:.1f}")
    return table


def scenarios(scale: int) -> dict[str, Callable[[], list[Call]]]:
    return {
        f"a chat of {50 // scale} turns of 1 KB": lambda: chat(50 // scale),
        f"a chat of {500 // scale} turns of 1 KB": lambda: chat(500 // scale),
        "a state of 100 KB that stays": lambda: large(20 // scale, changes=False),
        "a state of 100 KB that changes": lambda: large(20 // scale, changes=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    parser.add_argument("--only", default="", help="only what has this in its name")
    given = parser.parse_args()
    scale, rounds = (10, 1) if given.quick else (1, 7)
    console = Console(width=160)
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as name, ExitStack() as stack:
        client, _ = stack.enter_context(bench_server())
        server = f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}"
        sides = [*ours(server, Path(name)), *theirs(server, Path(name), console.print)]
        for what, make in scenarios(scale).items():
            if given.only in what:
                calls = make()
                gc.collect()
                gc.freeze()  # what was recorded is none of the garbage that a saver's call looks through
                figures = {side.name: Figures() for side in sides}
                for number in range(rounds if len(calls) < 1000 else 1):  # a long one takes a minute
                    for side in turned(sides, number):
                        once(side, client, calls, figures[side.name])
                console.print(table_of(what, figures, sides))
        what = f"{CHATS} chats at once"
        if given.only in what:
            calls = chat(10 // scale)
            rates: dict[str, list[float]] = {side.name: [] for side in sides}
            for number in range(rounds):
                for side in turned(sides, number):
                    rates[side.name].append(asyncio.run(at_once(side, calls)))
            table = Table(Column(f"{what}: calls/s", no_wrap=True), "", box=SIMPLE)
            for side in sides:
                table.add_row(side.name, f"{statistics.median(rates[side.name]):,.0f}")
            console.print(table)


def turned(sides: Sequence[Side], number: int) -> list[Side]:
    at = number % len(sides)
    return [*sides[at:], *sides[:at]]


if __name__ == "__main__":
    main()
