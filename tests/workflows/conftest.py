"""One finished study that many tests read, made once per test run by the real command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mobo_mpq.workflows import search as search_module
from mobo_mpq.workflows import study_run
from mobo_mpq.workflows.cli import main

TOY = f"{Path(__file__).parent.parent / 'data' / 'toy_task.py'}:Toy"


def run(*arguments: object) -> int:
    """The command line, in this process."""
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def command() -> Callable[..., int]:
    """Runs a command line in this process and gives its exit code."""
    return run


@pytest.fixture(scope="session")
def toy() -> str:
    """Address of a user's task."""
    return TOY


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home with one finished study, `toy`: read it only."""
    home = tmp_path_factory.mktemp("home")
    code = run(
        "search", "--task", TOY, "--name", "toy", "--recipe", "ptq", "--strategy", "sobol", "--trials", 6,
        "--runner", "serial", "--home", home,
    )  # fmt: skip
    assert code == 0
    return home


@pytest.fixture
def home(finished_home: Path, tmp_path: Path) -> Path:
    """A copy of that home, to change."""
    shutil.copytree(finished_home, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with bad input; gives the one sentence on stderr."""

    def check(*arguments: object, code: int = 2) -> str:
        capsys.readouterr()
        assert run(*arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, captured.err
        assert captured.err.rstrip().endswith(lines[0]), "something follows the sentence"
        return lines[0].removeprefix("error: ")

    return check


class NoTracker:
    """In the place of MLflow, which one search is enough for."""

    def notify(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies without MLflow."""
    monkeypatch.setattr(study_run, "start_tracker", lambda *_: NoTracker())
    monkeypatch.setattr(search_module, "is_uploaded", lambda *_: True)
