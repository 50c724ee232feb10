"""Networks of the front's members, on disk; nobody else's."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path


class Checkpoints:
    """One safetensors file per member of the front, within a cap on their sum.

    Where a network is missing, because of the cap or a crash, its trial is simply run again: a trial's result depends
    on the seed, its number and its policy alone.

    Args:
        folder: of the files.
        cap_bytes: on all of them together.
    """

    def __init__(self, folder: Path, cap_bytes: float) -> None:
        self.folder, self.cap_bytes = folder, cap_bytes

    def path(self, number: int) -> Path:
        """Where a trial's network is, or would be."""
        return self.folder / f"{number}.safetensors"

    def save(self, number: int, state: bytes) -> bool:
        """Keep a network, if there is room for it."""
        others = (file for file in self.folder.glob("*.safetensors") if file != self.path(number))
        used = sum(file.stat().st_size for file in others)
        if used + len(state) > self.cap_bytes:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)  # users remove it to win space
        partial = self.path(number).with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(state)
            os.fsync(file.fileno())  # or a crash could leave the new name with nothing in it
        os.replace(partial, self.path(number))
        return True

    def keep_only(self, numbers: Collection[int]) -> None:
        """Drop the networks of trials that have left the front."""
        for file in self.folder.glob("*.safetensors"):
            if int(file.stem) not in numbers:
                file.unlink()

    def load(self, number: int) -> bytes | None:
        """A network, if it was kept."""
        file = self.path(number)
        return file.read_bytes() if file.exists() else None
