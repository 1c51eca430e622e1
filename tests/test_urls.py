"""What the texts of URLs name, from every working directory, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from runstream import ConfigurationError, LeaseHeld, connect, connect_async
from tests.support.samples import make_event
from tests.support.servers import needs_embedded_server


@pytest.mark.parametrize("scheme", ["sqlite", "jsonl"])
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("runs", "{dir}/runs"),
        ("./runs", "{dir}/runs"),
        ("{dir}/sub/runs", "{dir}/sub/runs"),
        ("///runs", "{dir}/runs"),
        ("///./runs", "{dir}/runs"),
        ("///sub/runs", "{dir}/sub/runs"),
        ("///{dir}/sub/runs", "{dir}/sub/runs"),
    ],
)
def test_a_path_is_spelled_as_here_or_as_sqlalchemy_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, text: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    with connect(f"{scheme}:{text.format(dir=tmp_path)}") as store:
        store.save_event(make_event("r"))
    assert Path(path.format(dir=tmp_path)).exists()


def test_runs_in_memory_are_shared_by_their_name() -> None:
    """A name is shared within the process, a store without one is alone."""
    with connect("memory:here") as store, connect("memory:here", state_type=dict) as same:
        lease = store.lease("r", owner="a")
        lease.save_event(make_event("r"))
        assert same.list_runs() == ["r"]
        with pytest.raises(LeaseHeld):
            same.save_event(make_event("r"))
        lease.release()
        with connect("memory:there") as other, connect("memory:") as alone, connect("memory:") as another:
            assert other.list_runs() == alone.list_runs() == []
            alone.save_event(make_event("r"))
            assert another.list_runs() == []
    with connect("memory:here") as store:
        assert store.list_runs() == ["r"], "as long as the process lives"


@pytest.mark.parametrize(
    ("url", "archive"),
    [
        ("sqlite:runs.db?keep_snapshots=3", None),
        ("jsonl:///runs", None),
        ("fake:elsewhere", "sqlite:a.db"),
        ("fake:elsewhere", "jsonl:a"),
        pytest.param("embedded:server", None, marks=needs_embedded_server),
    ],
)
async def test_a_pickled_store_names_the_same_files_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, archive: str | None
) -> None:
    """In a process with another working directory, too."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with connect(url, archive=archive) as store:
        store.save_event(make_event("r"))
        async with connect_async(url, archive=archive) as awaited:
            pickled, pickled_async = pickle.dumps(store), pickle.dumps(awaited)
        monkeypatch.chdir(tmp_path / "other")
        with pickle.loads(pickled) as copy:
            assert copy.list_runs() == ["r"]
        async with pickle.loads(pickled_async) as copy:
            assert await copy.list_runs() == ["r"]
        assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://x.db", "sqlite:///x.db.*sqlite:////x.db"),
        ("jsonl://runs/a", "jsonl:///runs/a.*jsonl:////runs/a"),
        ("sqlite://", "sqlite:///runs"),
        ("sqlite:///", "path"),
        ("sqlite::memory:", "memory:"),
        ("sqlite:///:memory:", "memory:"),
        ("redis://:hunter2@host/hunter2", "number of a database"),
        ("redis://:hunter2@host?db=hunter2", "option db .* whole number"),
        ("redis://:hunter2@host?protocol=4", "option protocol .* 2 or 3"),
        ("redis://:hunter2@host?socket_timeout=hunter2", "option socket_timeout .* seconds"),
        ("redis://:hunter2@host?socket_timeout=-1", "option socket_timeout .* seconds"),
        ("redis://:hunter2@host?socket_timeout=nan", "option socket_timeout .* seconds"),
        ("redis://:hunter2@host?health_check_interval=x", "option health_check_interval"),
        ("redis://:hunter2@host?max_connections=0", "option max_connections"),
        ("redis://:hunter2@host?retry_on_timeout=maybe", "option retry_on_timeout .* true or false"),
        ("redis://:hunter2@host?retry=3", "no option 'retry'"),
        ("redis://:hunter2@host?encoding=nonsense", "no option 'encoding'"),
        ("redis://:hunter2@host?ssl_cert_reqs=none", "no option 'ssl_cert_reqs' .*rediss://"),
        ("rediss://:hunter2@host?ssl_cert_reqs=CERT_NONE", "option ssl_cert_reqs .* none, optional or required"),
        ("rediss://:hunter2@host?ssl_ca_certs=/hunter2", "option ssl_ca_certs .* file"),
        ("rediss://:hunter2@host?ssl_ciphers=hunter2", "option ssl_ciphers"),
        ("rediss://:hunter2@host?ssl_min_version=1", "option ssl_min_version"),
        ("unix:///hunter2/socket?socket_keepalive=true", "no option 'socket_keepalive'"),
        ("fake:?partitions=hunter2", "partitions"),
    ],
)
async def test_what_does_not_read_is_named(url: str, said: str) -> None:
    """The message names the option and says what to write; it shows no value, which may be a secret."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=said) as caught:
        await connect_async(url)
    assert "hunter2" not in str(caught.value)
