"""What the default search costs: wall time, CPU time and peak memory of `mobo-mpq search` on this machine.

    python benchmarks/default_search.py [-- ARGS of mobo-mpq search]

The float model is trained beforehand. CPU time and memory are those of the command and of everything that it starts,
sampled twice a second; memory that processes share is counted once (PSS).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil

from mobo_mpq.objectives.tasks import load_task


def main() -> None:
    """Run the search and print what it took."""
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    load_task("digits").model()
    load_task("text").model()
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "mobo_mpq.workflows.cli", "search", *arguments, "--home", home]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        cpu, memory = watch(process)
        wall = time.monotonic() - start
        (journal,) = Path(home).glob("studies/*/journal.jsonl")
        events = [json.loads(line) for line in journal.read_text().splitlines()]
    ends = [event["finished"] for event in events if event["event"] == "trial" and event["state"] != "running"]
    searched = datetime.fromisoformat(max(ends)) - datetime.fromisoformat(events[0]["created"])
    print(f"trials                          {len(ends)}")
    print(f"first line to last trial        {searched.total_seconds():.1f} s wall")
    print(f"whole command                   {wall:.1f} s wall, {cpu:.1f} s CPU, {memory / 1e9:.2f} GB at its peak")


def watch(process: subprocess.Popen[str]) -> tuple[float, float]:
    """CPU seconds and peak bytes of a process and its descendants, until it ends."""
    spent: dict[int, float] = {}
    peak = 0.0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0.0
        for one in [root, *root.children(recursive=True)]:
            try:
                times = one.cpu_times()
                spent[one.pid] = times.user + times.system
                total += one.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        peak = max(peak, total)
        time.sleep(0.5)
    return sum(spent.values()), peak


if __name__ == "__main__":
    main()
