import ctypes
import os
import subprocess
import sys

import pytest

from mobo_mpq.quiet import native_output_dropped


def test_what_compiled_code_prints_is_dropped_in_the_block_alone(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)
    print("before, in Python")
    libc.puts(b"before")
    with native_output_dropped():
        libc.puts(b"inside")
        os.write(1, b"inside, too\n")
    libc.puts(b"after")
    print("after, in Python")
    libc.fflush(None)
    sys.stdout.flush()
    out = capfd.readouterr().out.splitlines()
    assert sorted(out) == ["after", "after, in Python", "before", "before, in Python"]


def test_an_error_puts_stdout_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), native_output_dropped():
        raise KeyError
    os.write(1, b"here\n")
    assert capfd.readouterr().out == "here\n"


def test_without_a_stdout_nothing_is_done() -> None:
    code = (
        "import os, sys; from mobo_mpq.quiet import native_output_dropped; os.close(1)\n"
        "with native_output_dropped(): print('in the block', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr.strip() == "in the block"
