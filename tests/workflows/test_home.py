"""Which studies exist, as their journals tell it."""

from pathlib import Path
from typing import Any

import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.journal import SCHEMA, Journal
from mobo_mpq.workflows.home import Home


def write(home: Home, name: str, *, tried: bool, **header: Any) -> None:
    """The journal of a study, with its first line and perhaps a trial."""
    folder = home.study(name)
    home.make(folder)
    with Journal(folder.journal) as journal:
        journal.append("study", schema=SCHEMA, name=name, trials=2, **header)
        if tried:
            journal.append("trial", number=0, state="running")


@pytest.mark.parametrize("tried", [False, True])
def test_a_study_exists_from_its_first_trial_on(tmp_path: Path, tried: bool) -> None:
    write(Home(tmp_path), "a", tried=tried)
    assert Home(tmp_path).study("a").exists is tried


@pytest.mark.parametrize(
    ("tried", "header", "begun"),
    [
        (False, {"proxy_of": "a"}, False),
        (True, {"proxy_of": "a"}, True),
        (True, {"proxy_of": "b"}, False),
        (True, {}, False),
    ],
    ids=["waits", "proxy", "of-another", "of-none"],
)
def test_a_study_that_waits_has_begun_when_its_proxy_has(
    tmp_path: Path, tried: bool, header: dict[str, str], begun: bool
) -> None:
    home = Home(tmp_path)
    write(home, "a", tried=False, proxy_study="a-proxy")
    assert not home.study("a").exists
    write(home, "a-proxy", tried=tried, **header)
    assert home.study("a").exists is begun
    if begun:
        with pytest.raises(InputError, match="study 'a' exists already, with 0 of 2 trials; go on with 'mobo-mpq res"):
            home.new("a")
    else:
        assert home.new("a") == home.study("a")


def test_a_study_whose_proxy_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write(home, "a", tried=False, proxy_study="a-proxy")
    write(home, "a-proxy", tried=True, proxy_of="a")
    home.study("a-proxy").journal.write_text("{\n")
    assert home.study("a").exists
