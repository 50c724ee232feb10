"""`ray up` and `ray submit` through a real sshd on loopback, as on any cluster."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
SSHD = Path("/usr/sbin/sshd")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SSHD.exists() and shutil.which("ssh") and shutil.which("rsync") and os.getuid() == 0),
        reason="needs openssh-server, openssh-client and rsync from Debian, and root",
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("sshd ended by itself")


@pytest.fixture(scope="module")
def login_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of the user that logs in: its shell has the package's python."""
    home = tmp_path_factory.mktemp("login")
    profile = f"export PATH={Path(sys.executable).parent}:$PATH\nexport MOBO_MPQ_CACHE={home / 'cache'}\n"
    (home / ".bash_profile").write_text(profile)
    (home / ".bashrc").write_text("")
    return home


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, login_home: Path) -> Iterator[tuple[int, Path]]:
    """A server of our own with throw-away keys; gives its port and the key that it accepts."""
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        f"PasswordAuthentication no\nSubsystem sftp internal-sftp\nSetEnv HOME={login_home}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd drops its privileges
    server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    wait_for_port(port, server)
    yield port, folder / "user"
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def cluster_file(tmp_path_factory: pytest.TempPathFactory, sshd: tuple[int, Path], login_home: Path) -> Iterator[Path]:
    """The file that is shipped, with our key, our ports and our folder; what it started is ended by process id."""
    port, key = sshd
    folder = tmp_path_factory.mktemp("cluster")
    temporary = Path("/tmp") / f"mobo-mpq-ray-{os.getpid()}"  # sockets need short names
    document: dict[str, Any] = yaml.safe_load((ROOT / "workflows" / "cluster" / "local.yaml").read_text())
    document["auth"] = {
        "ssh_user": getpass.getuser(),
        "ssh_private_key": str(key),
        "ssh_proxy_command": f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3 & exec cat >&3'",
    }
    document["head_start_ray_commands"] = [
        command.replace("--port=6379", f"--port={free_port()}") + f" --temp-dir={temporary}"
        for command in document["head_start_ray_commands"]
    ]
    file = folder / "local.yaml"
    file.write_text(yaml.safe_dump(document))
    yield file
    for process in processes_of(temporary):
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(temporary, ignore_errors=True)


def processes_of(temporary: Path) -> list[int]:
    """Processes whose command line names the folder that only our Ray uses."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(temporary).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile
                continue
    return found


def ray_command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    # the autoscaler keeps its state and control sockets under HOME and TMPDIR: a place of their own
    environment = {**os.environ, "HOME": str(home), "TERM": "dumb"}
    command = [str(Path(sys.executable).parent / "ray"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=900, stdin=subprocess.DEVNULL
    )


def test_a_study_by_ray_submit(cluster_file: Path, login_home: Path, toy: str) -> None:
    up = ray_command("up", "-y", "--no-config-cache", str(cluster_file), home=login_home)
    assert up.returncode == 0, up.stdout + up.stderr
    home = login_home / "studies-here"
    arguments = ["--task", toy, "--trials", "4", "--recipe", "ptq", "--name", "submitted", "--home", str(home)]
    script = str(ROOT / "workflows" / "search.py")
    submit = ray_command("submit", "--no-config-cache", str(cluster_file), script, "--", *arguments, home=login_home)
    assert submit.returncode == 0, submit.stdout + submit.stderr
    assert "submitted" in submit.stdout
    pareto = subprocess.run(
        [sys.executable, "-m", "mobo_mpq.workflows.cli", "pareto", "submitted", "--json", "--home", str(home)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    document = json.loads(pareto.stdout)
    assert document["study"] == "submitted"
    assert document["trials"]
    assert all(trial["mlflow_run_id"] for trial in document["trials"])
