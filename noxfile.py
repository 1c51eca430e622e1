"""What CI runs, and more than it has time for: `nox` lists nothing you cannot run by hand, `nox -l` lists it all.

`nox` runs the default sessions; `nox -s exhaustive` what the default suite leaves out.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OLDEST_REDIS = "redis==5.2.0"  # as pyproject.toml has it


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The default suite, on each Python at hand."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(python="3.11")
def exhaustive(session: nox.Session) -> None:
    """What the default suite leaves out: every crash point on every backend, long state machines, kills.

    With the combinations that CI has no time for.
    """
    session.install("-e", ".[dev]")
    env = {"RUNSTREAM_TEST_ROUNDS": "2"}
    session.run("pytest", "-n", "auto", "-m", "exhaustive", *session.posargs, env=env)


@nox.session(python="3.11")
def chaos(session: nox.Session) -> None:
    """Kills, storms and failovers, for longer than the exhaustive tests have time for."""
    session.install("-e", ".[dev]")
    faults = ["test_drain_kills.py", "test_drain_crashes.py", "test_forks.py", "test_processes.py"]
    games = ["tests/chaos", *(f"tests/faults/{name}" for name in faults)]
    games += ["tests/stores/test_list_events.py", "tests/stores/redis/test_cancelled_followers.py"]
    session.run("pytest", "-m", "exhaustive", *games, *session.posargs, env={"RUNSTREAM_TEST_ROUNDS": "7"})


@nox.session(python="3.11")
@nox.parametrize("client", [OLDEST_REDIS, "redis"], ids=["oldest", "newest"])
def redis_py(session: nox.Session, client: str) -> None:
    """The default suite with the oldest redis-py that is supported, and with the newest."""
    session.install("-e", ".[dev]")
    session.install("--upgrade", client)
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Style, docstrings, and the layers of the architecture."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Strict types, in the library, its tests and its benchmark."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """What the documentation says: its programs are run, its tables are checked."""
    session.install("-e", ".[dev]")
    session.run("pytest", "tests/project", *session.posargs)


@nox.session(python="3.11")
def model(session: nox.Session) -> None:
    """The model of the protocol, in all sizes but the largest, and what each check in it is for; it needs spin."""
    session.run("python", "-m", "tests.support.model_check", *session.posargs)


@nox.session(python="3.11")
def bench(session: nox.Session) -> None:
    """Each operation beside what one would write by hand, as ratios."""
    session.install("-e", ".[dev]")
    session.run("python", "bench/bench.py", *session.posargs)
