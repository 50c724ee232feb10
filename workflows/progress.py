"""What a person sees while a study runs: a bar on a terminal, one line per trial elsewhere. All on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mobo_mpq.front import hypervolume_share
from mobo_mpq.study import Study
from mobo_mpq.trial import Trial
from mobo_mpq.workflows.reporting import show, show_share, trial_line


class Reporter:
    """Says what happens in a study.

    Args:
        console: where; its being a terminal decides between bar and lines.
        study: gives hypervolume and front.
        total: trials in all.
        float_quality: of the unquantized model: the hypervolume is shown as a share of what it would dominate for free.
    """

    def __init__(self, console: Console, study: Study, total: int, float_quality: float) -> None:
        self.console, self.study, self.total, self.float_quality = console, study, total, float_quality
        self._bar: Progress | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar while the study runs, where there is a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
        ) as bar:
            self._bar = bar
            self._task = bar.add_task("trials", total=self.total, completed=self.study.evaluated, state=self._state())
            try:
                yield
            finally:
                self._bar = None

    def finished(self, trial: Trial) -> None:
        """One more trial has ended."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.study.evaluated, state=self._state())
            if not trial.values:
                self._bar.console.print(trial_line(self.study.problem.infos, trial))
            return
        line = trial_line(self.study.problem.infos, trial)
        self.say(f"[{self.study.evaluated}/{self.total}] {line}  {self._volume()}")

    def say(self, sentence: str) -> None:
        """One line, above the bar if there is one."""
        console = self._bar.console if self._bar is not None else self.console
        console.print(sentence, markup=False, soft_wrap=True)

    def _state(self) -> str:
        """Hypervolume, and the ends of the front."""
        front, infos = self.study.pareto(), self.study.problem.infos
        if not front:
            return ""
        fastest = min(front, key=lambda trial: trial.values[infos[1].name].value)
        ends = [front[0]] if fastest is front[0] else [front[0], fastest]
        shown = ", ".join(
            " at ".join(show(info, trial.values[info.name].value) for info in infos[:2]) for trial in ends
        )
        return f"{self._volume()}; {shown}"

    def _volume(self) -> str:
        share = hypervolume_share(self.study.problem.infos, self.study.finished, self.float_quality)
        return f"hypervolume {show_share(share)}"
