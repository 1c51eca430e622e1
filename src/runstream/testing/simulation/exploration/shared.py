"""What the processes of a configuration share: the server and an archive, each use of which is a step."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fakeredis.model import Hash, XStream, ZSet

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch
from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.model.tags import TagSet
from runstream.operations.operation import Exchange, Replies
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.testing.simulation.exploration.steps import SharedSteps, digest_of
from runstream.testing.simulation.exploration.tape import Given
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.server import Fate, SimulatedServer, SimulatedTransport
from runstream.testing.simulation.story import told

__all__ = ["Archive", "Saved", "Shared", "SharedSink", "SharedTransport"]


_TIME = (b"TIME",)


class Saved(NamedTuple):
    """The state of all that is shared, as it was saved."""

    server: bytes
    replica: bytes | None
    losses: int
    skew: float
    files: dict[Path, bytes]


class Archive:
    """A JSONL archive, opened anew for each call, as by a process that has just begun.

    Args:
        directory: Where it is made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with self._opened() as archive:
            self.id, self.location = archive.archive_id, archive.location
        self._look()

    def call(self, name: str, *args: Any) -> Given:
        """Call a method of it."""
        value: Any = None
        error = None
        with self._opened() as archive:
            try:
                value = getattr(archive, name)(*args)
                value = list(value) if isinstance(value, Iterator) else value
            except RunstreamError as raised:
                error = raised
        if name == "write":
            self._look()
        return Given(self.state, value, error)

    def put_back(self, files: dict[Path, bytes]) -> None:
        """Let it have these files."""
        if files != self.files:
            shutil.rmtree(self.directory)
            for path, content in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._look()

    def _opened(self) -> JSONLCheckpointer[Any, Any]:
        return JSONLCheckpointer(self.directory)

    def _look(self) -> None:
        self.files = {path: path.read_bytes() for path in sorted(self.directory.rglob("*")) if path.is_file()}
        self.state = digest_of(list(self.files.values())).hex()


class Shared:
    """The server and the archive.

    Args:
        steps: Whose tasks share them.
        directory: Where the archive lies.
    """

    def __init__(self, steps: SharedSteps, directory: Path) -> None:
        self.server = SimulatedServer(steps)
        self.raw: Any = self.server.primary.client()
        self.raw.ping()  # from now on the server has a database
        steps.skew_of_server = self.server.skew
        self.archive = Archive(directory)
        self.losses = 0
        self._replica: bytes | None = None

    def replicate(self) -> None:
        """Let the replica have all that the server has."""
        self._replica = pickle.dumps(self._data)

    def fail_over(self) -> None:
        """Let the replica take the server's place: what came since is lost, and so are leases and scripts."""
        self._put_back_server(self._replica, self.losses + 1)
        self.server.primary.forget_scripts()

    def run_ahead(self, seconds: float) -> None:
        """Let the server's clock be set forwards."""
        self.server.primary.skew_seconds += seconds

    def forbid(self, command: str | None) -> None:
        """Let nobody have the right to a command; None: everybody has all."""
        self.server.primary.forbidden = command

    def evict(self) -> None:
        """Let the server remove the sets of partitions."""
        self.raw.delete(
            *(name for name in self.raw.scan_iter() if name.endswith((b":runs", b":due", b":retired")))
        )

    def save(self) -> Saved:
        """Save the state of both."""
        skew = self.server.primary.skew_seconds
        return Saved(pickle.dumps(self._data), self._replica, self.losses, skew, self.archive.files)

    def put_back(self, saved: Saved) -> None:
        """Put a state back."""
        self._put_back_server(saved.server, saved.losses)
        self.server.primary.skew_seconds = saved.skew
        self._replica = saved.replica
        self.archive.put_back(saved.files)

    def state(self) -> bytes:
        """A digest of the state of both."""
        replica = None if self._replica is None else _plain(pickle.loads(self._replica))  # noqa: S301 - our own
        skew = self.server.primary.skew_seconds
        return digest_of(_plain(self._data), replica, self.losses, skew, self.archive.state)

    @property
    def _data(self) -> Mapping[int, tuple[dict[bytes, Any], Any]]:
        """What the server holds, as fakeredis has it: by a database's number, its values and their expiries."""
        databases = self.server.fake.dbs
        return {number: (database._dict, database._expiry_heap) for number, database in databases.items()}

    def _put_back_server(self, saved: bytes | None, losses: int) -> None:
        assert saved is not None
        for number, (values, heap) in pickle.loads(saved).items():  # noqa: S301 - our own
            self.server.fake.dbs[number]._dict, self.server.fake.dbs[number]._expiry_heap = values, heap
        self.losses, self.server.primary.identity = losses, f"{losses:040x}"


def _plain(data: Mapping[int, tuple[dict[bytes, Any], Any]]) -> list[Any]:
    """What a server holds, in one order, whatever it came in."""
    return [
        (number, key, _plain_value(item.value), item.expireat)
        for number, (values, _) in data.items()
        for key, item in sorted(values.items())
    ]


def _plain_value(value: Any) -> Any:
    if isinstance(value, Hash):
        return sorted(value._values.items())
    if isinstance(value, ZSet):
        return list(value._byscore)
    if isinstance(value, XStream):
        return [(*key, value._values_dict[key]) for key in value._ids], value._last_id
    return value


class _Broken(StoreUnavailable):
    """The connection has ended: nothing more of the exchange is executed."""


class SharedTransport(SimulatedTransport):
    """The way of one process to the server: each round trip is one shared step, or each command is.

    Args:
        shared: What is shared.
        steps: Whose steps they are.
        process: Whose way it is.
        fates: What may become of a round trip.
    """

    def __init__(self, shared: Shared, steps: SharedSteps, process: Process, fates: Sequence[Fate]) -> None:
        super().__init__(shared.server, process, lambda: [1])
        self._steps, self._may = steps, fates

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once."""
        if all(command[0] == b"INFO" or command == _TIME for command in exchange.commands) and not (
            self._steps.time_passes and _TIME in exchange.commands
        ):
            return list(self._steps.make_alone(partial(self._make, exchange)))
        if exchange.atomic or not self._steps.one_by_one:
            return self._shared(exchange)
        replies, errors = [], []
        for command in exchange.commands:  # one that is refused keeps none of the others from being executed
            try:
                replies += self._shared(exchange._replace(commands=[command]))
            except _Broken:
                raise
            except RunstreamError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return replies

    def _shared(self, exchange: Exchange) -> Replies:
        """What others may notice, in one step."""
        fate, replies = self._steps.share(told(exchange), partial(self._make, exchange), self._may)
        if fate in (Fate.REQUEST_LOST, Fate.REPLY_LOST):
            raise _Broken(f"the simulated round trip: {fate.value}")
        return list(replies)

    def _make(self, exchange: Exchange) -> Given:
        try:
            replies = self.execute(exchange)
        except RunstreamError as error:
            return Given(repr(error), error=error)
        return Given(repr(replies), replies)


class SharedSink:
    """An archive as one worker sees it: each call is one shared step.

    Args:
        archive: The archive.
        steps: Whose steps they are.
        fates: What may become of a call.
    """

    def __init__(self, archive: Archive, steps: SharedSteps, fates: Sequence[Fate]) -> None:
        self.archive_id, self.location = archive.id, archive.location
        self._archive, self._steps = archive, steps
        self._may = [fate for fate in fates if fate in (Fate.ARRIVES, Fate.KILLED_AFTER)]

    def position(self, run_id: str) -> Position | None:
        """How far the archive has a run."""
        return self._call("position", run_id)  # type: ignore[no-any-return] # as the archive gives it

    def position_of_lanes(self, run_id: str, lanes: Collection[str | None]) -> Position | None:
        """As ``position``, with the snapshots of these lanes."""
        return self._call("position_of_lanes", run_id, lanes)  # type: ignore[no-any-return] # as above

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs in one transaction."""
        self._call("write", batches)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the archive holds of a run, in order."""
        return iter(self._call("read_back", run_id, first, last))

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the archive holds of a run."""
        return self._call("read_back_snapshots", run_id)  # type: ignore[no-any-return] # as above

    def read_back_lanes(self, run_id: str, lanes: Collection[str | None]) -> Sequence[ArchiveSnapshot]:
        """As ``read_back_snapshots``, the snapshots of these lanes."""
        return self._call("read_back_lanes", run_id, lanes)  # type: ignore[no-any-return] # as above

    def read_back_tags(self, run_id: str) -> TagSet:
        """The tags that the archive holds of a run."""
        return self._call("read_back_tags", run_id)  # type: ignore[no-any-return] # as above

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records in the quarantine."""
        return iter(self._call("quarantine", run_id))

    def _call(self, name: str, *args: Any) -> Any:
        return self._steps.share(f"asks the archive: {name}", partial(self._archive.call, name, *args), self._may)[
            1
        ]
