"""Strict types over the installed wheel: builds it, installs it beside the dependencies, and runs mypy on it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Return mypy's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(folder).glob("*.whl")
        site = Path(folder) / "site"
        unpack = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
        subprocess.run(unpack, check=True)
        check = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "mobo_mpq"]
        # from another folder, so that the checkout cannot shadow the wheel
        return subprocess.run(check, cwd=site, env={**os.environ, "MYPYPATH": str(site)}).returncode


if __name__ == "__main__":
    sys.exit(main())
