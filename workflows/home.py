"""Where studies live on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError, JournalError, UnknownName
from mobo_mpq.journal import read_events


@dataclass(frozen=True)
class StudyFolder:
    """``studies/NAME``: study file, journal, checkpoints."""

    path: Path

    @property
    def name(self) -> str:
        """Of the study."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """The study's state."""
        return self.path / "journal.jsonl"

    @property
    def config_file(self) -> Path:
        """The resolved study file."""
        return self.path / "study.toml"

    @property
    def checkpoints(self) -> Path:
        """Networks of the front's members."""
        return self.path / "checkpoints"

    @property
    def exists(self) -> bool:
        """Whether a study was begun here; a failure before its first trial leaves nothing to resume.

        A study that waits for its proxy has begun when that has; a study of that name that is no proxy of it is
        another matter. A journal that cannot be read counts, too: nobody may write over it.
        """
        try:
            events = read_events(self.journal) if self.journal.is_file() else []
            proxies = [self.path.parent / event["proxy_study"] for event in events if "proxy_study" in event]
            begun = any(event["event"] == "trial" for event in events)
            return begun or any(_is_proxy(StudyFolder(path), self.name) for path in proxies)
        except JournalError:
            return True

    def config(self) -> StudyConfig:
        """The resolved study file, read back."""
        return StudyConfig.parse(StudyConfig.read(self.config_file), source=str(self.config_file))

    def trial_counts(self) -> tuple[int, int]:
        """Finished trials, and the number asked for."""
        finished, total = 0, 0
        for event in read_events(self.journal):
            finished += event["event"] == "trial" and event.get("state") != "running"
            total = event.get("trials", total) if event["event"] in ("study", "total") else total
        return finished, total

    def refuse_if_begun(self) -> None:
        """Leave a study alone that is there already.

        Raises:
            InputError: saying how to go on with it.
            JournalError: when its journal is broken.
        """
        if self.exists:
            finished, total = self.trial_counts()
            raise InputError(
                f"study '{self.name}' exists already, with {finished} of {total} trials; go on with "
                f"'mobo-mpq resume {self.name}', or choose another --name"
            )


def _is_proxy(folder: StudyFolder, of: str) -> bool:
    return folder.exists and read_events(folder.journal)[0].get("proxy_of") == of


@dataclass(frozen=True)
class Home:
    """``--home``: tracking database, artifacts, and the studies."""

    path: Path

    @classmethod
    def of(cls, path: str | Path | None = None) -> Home:
        """The folder that was asked for, else ``$MOBO_MPQ_HOME``, else ``./mobo-mpq-home``."""
        return cls(Path(path or os.environ.get("MOBO_MPQ_HOME") or "mobo-mpq-home").absolute())

    def study(self, name: str) -> StudyFolder:
        """Where a study of that name is, or would be."""
        return StudyFolder(self.path / "studies" / name)

    def studies(self) -> Iterator[StudyFolder]:
        """The studies that exist, newest last."""
        folders = (self.path / "studies").glob("*/journal.jsonl")
        for journal in sorted(folders, key=lambda file: file.stat().st_mtime):
            folder = StudyFolder(journal.parent)
            if folder.exists:
                yield folder

    def existing(self, name: str | None) -> StudyFolder:
        """A study that exists; the newest when no name is given.

        Raises:
            UnknownName: there is no such study.
            InputError: there is no study at all.
        """
        if name is not None and self.study(name).exists:  # without reading all the others
            return self.study(name)
        known = list(self.studies())
        if not known:
            raise InputError(
                f"there is no study in {self.path}; run 'mobo-mpq search' first, or point --home elsewhere"
            )
        if name is None:
            return known[-1]
        raise UnknownName("study", name, [one.name for one in known], "Run 'mobo-mpq search' to begin one.")

    def new(self, name: str) -> StudyFolder:
        """Where a new study will be; nothing is written yet.

        Raises:
            InputError: the study exists, or the home is not writable.
        """
        folder = self.study(name)
        folder.refuse_if_begun()
        check_writable(folder.path, self.path)
        return folder

    def make(self, folder: StudyFolder) -> None:
        """Make the folders of a new study.

        Raises:
            InputError: they cannot be made.
        """
        try:
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(self.path, error.strerror or str(error)) from None


def check_writable(path: Path, home: Path) -> None:
    """Whether a folder is, or could be made, where this user may write.

    Raises:
        InputError: naming the home.
    """
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise _not_writable(home, "Permission denied" if existing.is_dir() else f"{existing} is not a folder")


def _not_writable(home: Path, why: str) -> InputError:
    return InputError(f"cannot write to {home}: {why}; give a folder that you may write to with --home")
