"""`mobo-mpq ui`: a real browser sees the Pareto policies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mobo_mpq.workflows.home import StudyFolder
from mobo_mpq.workflows.record import StudyRecord

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1600,1200",
    "--virtual-time-budget=60000", "--dump-dom",
]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def see(url: str, profile: Path) -> str:
    """What the page holds once its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium from Debian")
def test_a_browser_sees_the_pareto_policies(finished_home: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mobo_mpq.workflows.cli", "ui", "toy", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--home", str(finished_home)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stderr is not None
        front_url, all_url = server.stdout.readline().strip(), server.stdout.readline().strip()
        assert front_url.startswith(f"http://127.0.0.1:{port}/#/experiments/")
        for line in server.stderr:  # until it serves
            if "Uvicorn running" in line or "Application startup complete" in line:
                break
        record = StudyRecord.read(StudyFolder(finished_home / "studies" / "toy"))
        front = {trial.number for trial in record.pareto()}
        page = see(front_url, tmp_path / "profile")
        for trial in record.finished:
            assert (f"trial-{trial.number}<" in page) == (trial.number in front), f"trial {trial.number}"
        assert ">toy<" in see(all_url, tmp_path / "profile")
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=60)
    assert server.returncode == 130
