"""docs/simulation.md does what it says, and so does the command that plays games."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from runstream.testing.simulation import PLANS
from runstream.testing.simulation.__main__ import gists, main
from runstream.testing.simulation.series import play_series
from tests.simulation.breaks import BREAKS

PAGE = Path(__file__).parents[2] / "docs/simulation.md"


@pytest.mark.exhaustive
def test_the_page_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (said,) = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(example, {})
    assert capsys.readouterr().out == said
    (commands,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for line in commands.splitlines():
        options = line.split()[3:]
        named = {word for word in options if word.startswith("--")}
        assert named <= {"--steps", "--seed", "--plan", "--jobs", "--coverage"}


@pytest.mark.exhaustive
def test_the_command_plays_so_many_steps(capsys: pytest.CaptureFixture[str]) -> None:
    main(steps=1_000, seed=2, plan="failovers")
    assert re.search(r"^[\d,]+ steps of \d games in \d+ s: \d+ batches", capsys.readouterr().out)
    with pytest.raises(typer.BadParameter, match=", ".join(PLANS)):
        main(plan="nonsense")


@pytest.mark.exhaustive
def test_what_is_found_does_not_hang_on_the_number_of_processes() -> None:
    one, two = (
        [(name, finding.seed, finding.steps) for name, finding in play_series(list(PLANS), 3, 2_000, jobs)]
        for jobs in (1, 2)
    )
    assert one == two
    assert sum(steps for _, _, steps in one) >= 2_000


@pytest.mark.exhaustive
def test_the_command_tells_the_story_of_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same failure as the history that it was made of."""
    one = BREAKS[0]
    one.make(monkeypatch)
    with pytest.raises(typer.Exit) as ended:
        main(plan=one.plan, seed=one.seed, tries=2)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    first = re.match(rf"plan {one.plan}, seed {one.seed}: (.*)\n", said)
    assert first is not None
    assert gists([first[1]]) <= gists(said.splitlines()[1:])
    assert re.search(r": sends \w+", said)
    assert "its choices: [" in said
