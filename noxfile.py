"""What CI runs, and more than it has time for: `nox` lists nothing you cannot run by hand, `nox -l` lists it all.

`nox` runs the default sessions; `nox -s exhaustive` what the default suite leaves out.
"""

from __future__ import annotations

import nox
from packaging.requirements import Requirement  # nox brings it

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)  # those of the classifiers

_client = next(one for one in map(Requirement, PROJECT["project"]["dependencies"]) if one.name == "redis")
_bounds = {bound.operator: bound.version for bound in _client.specifier}
_majors = range(int(_bounds[">="].partition(".")[0]), int(_bounds["<"]))
CLIENTS = [f"redis=={_bounds['>=']}", *(f"redis=={major}.*" for major in _majors)]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The default suite, on each Python at hand."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(python=PYTHONS[0])
def exhaustive(session: nox.Session) -> None:
    """What the default suite leaves out: every crash point on every backend, long state machines, kills.

    With the combinations that CI has no time for.
    """
    session.install("-e", ".[dev,browser]")
    env = {"RUNSTREAM_TEST_ROUNDS": "2"}
    session.run("pytest", "-n", "auto", "-m", "exhaustive", *session.posargs, env=env)


@nox.session(python=PYTHONS[0])
def chaos(session: nox.Session) -> None:
    """Kills, storms and failovers, for longer than the exhaustive tests have time for."""
    session.install("-e", ".[dev]")
    faults = ["test_drain_kills.py", "test_drain_crashes.py", "test_forks.py", "test_processes.py"]
    games = ["tests/chaos", *(f"tests/faults/{name}" for name in faults)]
    games += ["tests/stores/test_list_events.py", "tests/stores/redis/test_cancelled_followers.py"]
    session.run("pytest", "-m", "exhaustive", *games, *session.posargs, env={"RUNSTREAM_TEST_ROUNDS": "7"})


@nox.session(python=PYTHONS[0])
@nox.parametrize("client", CLIENTS)
def redis_py(session: nox.Session, client: str) -> None:
    """The default suite with the oldest redis-py that is supported, and with the newest of each major version."""
    session.install("-e", ".[dev]")
    session.install("--upgrade", client)
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Style, docstrings, and the layers of the architecture."""
    session.install("-e", ".[dev,lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """Strict types, in the library, its tests and its benchmark, and what an editor knows of the interface."""
    session.install("-e", ".[dev,lint]")
    session.run("mypy")
    session.run("basedpyright")


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """What the documentation says: its programs are run, its tables are checked, and the site is built."""
    session.install("-e", ".[dev,docs]")
    session.run("pytest", "tests/project", *session.posargs)
    session.run("python", "-m", "mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python=PYTHONS[0])
def model(session: nox.Session) -> None:
    """The model of the protocol, in all sizes but the largest, and what each check in it is for; it needs spin."""
    session.run("python", "-m", "tests.support.model_check", *session.posargs)


@nox.session(python=PYTHONS[0])
def bench(session: nox.Session) -> None:
    """Each operation beside what one would write by hand, as ratios."""
    session.install("-e", ".[dev]")
    session.run("python", "bench/bench.py", *session.posargs)
