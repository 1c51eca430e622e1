"""What a worker says of itself over HTTP, as a process beside a real server: /metrics and /health."""

from __future__ import annotations

import json
import math
import resource
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from runstream.cli.support.http_endpoints import Health, serving
from runstream.drain.stats import DrainStats, Failure
from runstream.stores.redis.namespace import namespace_of
from tests.support.commands import QUIET, Place, Worker, get, put_damaged, spawn
from tests.support.samples import make_state
from tests.support.servers import DEADLINE_SECONDS, eventually, free_port, needs_server

pytestmark = needs_server

COMPOSE: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())


@contextmanager
def serving_worker(place: Place, *arguments: str) -> Iterator[Worker]:
    with Worker(*place.drain, "--metrics-port", "0", *arguments) as worker:
        worker.says("begins")
        yield worker


def scrape(worker: Worker) -> dict[str, float]:
    """The samples by name, and by name and archive where they have one."""
    status, text = worker.get("/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            archive = sample.labels.get("archive")
            found[sample.name if archive is None else f"{sample.name} {archive}"] = sample.value
    return {name.removeprefix("runstream_drain_"): value for name, value in found.items()}


def health(worker: Worker) -> tuple[int, dict[str, Any]]:
    status, text = worker.get("/health")
    return status, json.loads(text)


def hot_bytes(place: Place, run_id: str) -> int:
    entries = place.node.raw.xrange(namespace_of(place.store).keys.run(run_id).events)
    return sum(len(value) for _, fields in entries for value in fields.values())


# -- metrics


def test_the_metrics_are_what_was_done(place: Place) -> None:
    """Every figure is compared with what the test did, and with what Redis held before."""
    place.emit("a", 30)
    place.emit("b", 12)
    place.store.save_snapshot("a", make_state("a"))
    put_damaged(place, "b")
    held = hot_bytes(place, "a") + hot_bytes(place, "b")
    with serving_worker(place, "--name", "w") as worker:
        eventually(lambda: (place.archived("a"), place.archived("b")) == (30, 13))
        eventually(lambda: scrape(worker)["runs_total"] == 2)
        found = scrape(worker)
        assert found["events_total"] == 42
        assert found["quarantined_total"] == 1
        assert found["bytes_total"] == held
        assert found["snapshots_total"] == 1
        assert found["trimmed_total"] == 43
        assert (found["retired_total"], found["forgotten_total"]) == (0, 0)
        assert found["batches_total"] >= 1
        assert found["parkings_total"] == 0
        assert found["retries_total"] == 0
        for archive in (place.jsonl, place.sqlite):
            assert found[f"archive_failing {archive}"] == 0
            assert found[f"archive_write_seconds_count {archive}"] == found["batches_total"]
            assert 0 < found[f"archive_write_seconds_sum {archive}"] < DEADLINE_SECONDS
        assert found["archived_after_seconds_count"] == 2
        assert 0 < found["archived_after_seconds_sum"] < 2 * DEADLINE_SECONDS
        assert found["redis_failing"] == 0
        assert "redis_memory_limit_bytes" not in found
        assert 0 <= found["last_beat_age_seconds"] < DEADLINE_SECONDS
        assert found["process_resident_memory_bytes"] > 1_000_000
        info = next(
            sample
            for family in text_string_to_metric_families(worker.get("/metrics")[1])
            for sample in family.samples
            if sample.name == "runstream_drain_info"
        )
        assert info.labels == {"worker": "w", "namespace": "runstream"}


def test_how_long_a_run_waited_to_be_archived_is_in_the_bucket_of_its_time(place: Place) -> None:
    """Since it came due, by the server's clock: a run is put back by 100 seconds, as if nobody had drained it."""
    place.emit("late", 3)
    due = namespace_of(place.store).keys.run("late").partition.due
    place.node.raw.zincrby(due, -100_000_000, "late")
    with serving_worker(place) as worker:
        eventually(lambda: scrape(worker)["archived_after_seconds_count"] == 1)
        assert 100 <= scrape(worker)["archived_after_seconds_sum"] < 100 + DEADLINE_SECONDS
        counted = {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(worker.get("/metrics")[1])
            for sample in family.samples
            if sample.name == "runstream_drain_archived_after_seconds_bucket"
        }
    assert {bound for bound, count in counted.items() if count} == {200, 500, 1000, 2000, 5000, math.inf}
    assert set(counted.values()) == {0, 1}


@pytest.mark.exhaustive
def test_the_metrics_show_a_backlog_and_what_is_parked(place: Place) -> None:
    """From Redis: the worker that answers holds none of it, it drains other partitions."""
    keys = namespace_of(place.store).keys
    run_ids = [f"r{number}" for number in range(40)]
    (others,) = {keys.partitions.index(keys.run(run_ids[0]).partition)}
    late = [run_id for run_id in run_ids if keys.run(run_id).partition is keys.partitions[others]]
    for run_id in late:
        place.emit(run_id, 7)
    (loaded,) = namespace_of(place.store).load_runs([late[0]])
    assert loaded is not None
    namespace_of(place.store).park(loaded.header, "for a test", 600)
    place.node.raw.config_set("maxmemory", 10**9)
    partitions = ",".join(str(number) for number in range(16) if number != others)
    with serving_worker(place, "--partitions", partitions) as worker:
        found = scrape(worker)
        assert found["namespace_up"] == 1
        assert found["runs_parked"] == 1
        assert found["runs_later"] == 1
        assert found["runs_pending"] == len(late) - 1
        assert found["lag_events"] == 7 * len(late)
        assert 0 < found["lag_seconds"] < DEADLINE_SECONDS
        assert found["runs_listed"] == len(late)
        assert found["partitions_without_worker"] == 1
        assert found["redis_memory_bytes"] > 100_000
        assert found["redis_memory_limit_bytes"] == 10**9
        eventually(lambda: scrape(worker)["workers"] == 1)  # it may be scraped before its first report


def test_scrapes_ask_redis_no_more_often_than_every_few_seconds(place: Place) -> None:
    with serving_worker(place) as worker:
        scrape(worker)
        place.node.raw.config_resetstat()
        began = time.monotonic()
        for _ in range(20):
            assert scrape(worker)["namespace_up"] == 1
        calls = place.node.raw.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"]
        assert calls <= 2 + (time.monotonic() - began) / 5


@pytest.mark.exhaustive
def test_a_server_that_hangs_holds_up_no_scrape(place: Place) -> None:
    """What the worker did is served all the same; what only Redis knows is left out until it answers again."""
    place.emit("r", 5)
    with serving_worker(place, "--url", f"{place.url}?retry_seconds=60") as worker:
        eventually(lambda: scrape(worker)["events_total"] == 5)
        with place.node.stopped():
            eventually(lambda: scrape(worker)["namespace_up"] == 0)
            began = time.monotonic()
            found = scrape(worker)
            assert time.monotonic() - began < 10  # when Prometheus gives up; the store itself does after 60
            assert found["events_total"] == 5
            assert not {"lag_events", "lag_seconds", "runs_pending", "runs_parked"} & found.keys()
            assert health(worker)[0] == 200
        eventually(lambda: scrape(worker)["namespace_up"] == 1)
        assert scrape(worker)["lag_events"] == 0


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs a limit that another process can set")
def test_a_full_disk_is_seen_and_is_no_reason_to_restart(place: Place) -> None:
    """A limit to the size of files stands for the disk. When there is room again, nothing is left to see."""
    with serving_worker(place) as worker:
        place.emit("r", 5)
        eventually(lambda: place.archived("r") == 5)
        _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (1, hard))
        place.emit("r", 500, first=6)
        eventually(lambda: scrape(worker)[f"archive_failing {place.jsonl}"] == 1)
        eventually(lambda: scrape(worker)["retries_total"] >= 2)
        status, facts = health(worker)
        assert (status, facts["status"]) == (200, "waiting")
        assert facts["failing"][place.jsonl]["error"]
        assert facts["failing"][place.jsonl]["since"].endswith("Z")
        assert place.archived("r") == 5
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        eventually(lambda: place.archived("r") == 505)
        eventually(lambda: health(worker)[1]["status"] == "ok")
        assert scrape(worker)[f"archive_failing {place.jsonl}"] == 0
        eventually(lambda: health(worker)[1]["events"] == 505)


# -- health


@pytest.mark.exhaustive
def test_a_loop_that_is_stuck_is_not_healthy_until_it_goes_on(place: Place) -> None:
    """A call that does not return: to a locked file, longer than the loop may be silent."""
    with serving_worker(place, "--stuck-after", "1.5") as worker:
        eventually(lambda: health(worker)[0] == 200)
        with closing(sqlite3.connect(place.directory / "a.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            place.emit("r", 5)
            eventually(lambda: place.in_jsonl("r") >= 5 and health(worker)[0] == 503)
            facts = health(worker)[1]
            assert facts["status"] == "stuck"
            assert facts["last_beat_age_seconds"] > 1.5
            lock.execute("ROLLBACK")
        eventually(lambda: health(worker)[0] == 200)
        eventually(lambda: place.archived("r") == 5)


@pytest.mark.exhaustive
def test_an_idle_worker_gives_signs_of_life(place: Place) -> None:
    """There is nothing to do, for longer than its last sign of life is old."""
    with serving_worker(place) as worker:
        began = time.monotonic()

        def is_younger_than_the_test() -> bool:
            return time.monotonic() - began > 2 and health(worker)[1]["last_beat_age_seconds"] < 1

        eventually(is_younger_than_the_test)


def test_a_worker_that_waits_for_its_server_is_healthy_and_says_so(place: Place) -> None:
    with serving_worker(place, "--url", f"{place.url}?retry_seconds=0.1") as worker:
        place.kill_server()
        eventually(lambda: health(worker)[1]["status"] == "waiting")
        status, facts = health(worker)
        assert status == 200
        assert facts["failing"]


def test_a_loop_that_has_ended_is_not_healthy() -> None:
    """Seen only while a process that ends is held up: by a reader of its report, by a server of its own."""
    progress = DrainStats()
    look = Health("w", progress, 60)
    assert look.inspect()[0]
    look.has_ended = True
    is_alive, facts = look.inspect()
    assert (is_alive, facts["status"]) == (False, "ended")


def test_what_fails_is_told_while_the_worker_lives() -> None:
    progress = DrainStats()
    progress.failing["sqlite:a.db"] = Failure(0.0, "no room")
    is_alive, facts = Health("w", progress, 60).inspect()
    assert (is_alive, facts["status"]) == (True, "waiting")
    assert facts["failing"] == {"sqlite:a.db": {"since": "1970-01-01T00:00:00.000Z", "error": "no room"}}


@pytest.mark.exhaustive
def test_the_compose_files_health_check_tells_alive_from_stuck_and_gone(place: Place) -> None:
    """The very command, at the port that this worker has."""
    check = COMPOSE["services"]["drain"]["healthcheck"]["test"]
    assert check[:2] == ["CMD", "python"]
    port = free_port()
    code = [part.replace(":9464/", f":{port}/") for part in check[2:]]
    assert code != check[2:]

    def is_healthy() -> bool:
        done = subprocess.run(
            [sys.executable, *code], capture_output=True, env=QUIET, timeout=DEADLINE_SECONDS, check=False
        )
        return done.returncode == 0

    with Worker(*place.drain, "--metrics-port", str(port), "--stuck-after", "1.5") as worker:
        worker.says("begins")
        eventually(is_healthy)
        with closing(sqlite3.connect(place.directory / "a.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            place.emit("r", 5)
            eventually(lambda: not is_healthy())
            lock.execute("ROLLBACK")
        eventually(is_healthy)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert not is_healthy()


# -- the server


def test_it_answers_get_of_two_paths(place: Place) -> None:
    with serving_worker(place) as worker:
        assert worker.get("/")[0] == 404
        assert worker.get("/metrics/")[0] == 404
        request = urllib.request.Request(worker.url("/health"), method="POST", data=b"")
        with pytest.raises(urllib.error.HTTPError) as refused, closing(urllib.request.urlopen(request)):
            pass
        refused.value.close()
        assert refused.value.code == 405
        assert worker.url("").startswith("http://127.0.0.1:")


def test_a_client_that_says_nothing_holds_up_no_other(place: Place) -> None:
    with serving_worker(place) as worker:
        port = int(worker.url("").rpartition(":")[2])
        with closing(socket.create_connection(("127.0.0.1", port))) as mute:
            mute.sendall(b"GET /metr")
            began = time.monotonic()
            assert health(worker)[0] == 200
            assert time.monotonic() - began < 8, "it was waited for until it was dropped"
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_it_listens_where_it_was_told() -> None:
    with (
        serving("::1", 0, lambda environ, start: [], Health("w", DrainStats(), 60)) as url,
    ):
        assert url.startswith("http://[::1]:")
        assert get(f"{url}/health")[0] == 200


@pytest.mark.exhaustive
def test_a_port_that_is_taken_is_one_line_and_2(place: Place) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = spawn("drain", *place.drain, "--metrics-port", str(port))
    assert said.code == 2
    assert f"cannot listen at 127.0.0.1 port {port}" in said.err
    assert spawn("drain", *place.drain, "--metrics-port", "0", "--metrics-host", "no.such.host.invalid").code == 2


@pytest.mark.exhaustive
def test_without_the_extra_it_says_how_to_get_it(place: Place) -> None:
    """A process in which prometheus_client cannot be imported; without --metrics-port nothing asks for it."""
    code = "import sys; sys.modules['prometheus_client'] = None; from runstream.cli import main; main()"

    def drain(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "drain", *place.drain, "--once", *arguments],
            capture_output=True,
            text=True,
            env=QUIET,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    said = drain("--metrics-port", "0")
    assert said.returncode == 2
    assert "pip install 'runstream[metrics]'" in said.stderr
    assert shlex.split(said.stderr.splitlines()[-1]), "the command can be pasted"
    assert drain().returncode == 0
