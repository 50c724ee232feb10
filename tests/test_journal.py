from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobo_mpq.errors import JournalError
from mobo_mpq.journal import Journal, read_events, read_trials, trial_from_dict, trial_to_dict
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.trial import Recipe, Trial, TrialState

POLICY = Policy.of({"a": (8, 4), "b": (2, 2)})


def trial(number: int, state: TrialState = TrialState.RUNNING, **fields: object) -> Trial:
    return replace(Trial(number, state, POLICY, "sobol", seed=7), **fields)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append("study", schema=1)
        journal.append_trial(trial(0))
        journal.append_trial(trial(1))
        journal.append_trial(trial(1, TrialState.COMPLETE, values={"accuracy": Measurement(0.9, 0.01)}))
    return tmp_path / "journal.jsonl"


@given(
    value=st.floats(-1e30, 1e30),
    stderr=st.none() | st.floats(0, 1e9),
    state=st.sampled_from(TrialState),
    recipe=st.none() | st.just(Recipe("qat", 1.5, 0.5, {"lr": 0.1, "loss": "kl"})),
    early=st.none() | st.builds(Measurement, st.floats(-1e9, 1e9), st.none(), st.none() | st.floats(0, 1e9)),
)
def test_a_trial_survives_the_way_through_json(
    value: float, stderr: float | None, state: TrialState, recipe: Recipe | None, early: Measurement | None
) -> None:
    before = trial(
        3,
        state,
        values={"loss": Measurement(value, stderr)},
        error="no\nluck",
        seconds=1.25,
        cpu_s=1.125,
        proposal_cpu_s=0.5,
        started=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        recipe=recipe,
        early=early,
    )
    assert trial_from_dict(json.loads(json.dumps(trial_to_dict(before)))) == before


def test_finished_trials_come_in_the_order_of_their_end_then_the_running_ones(path: Path) -> None:
    with Journal(path) as journal:
        journal.append_trial(trial(2))
        journal.append_trial(trial(0, TrialState.FAILED, error="boom"))
    assert [(t.number, t.state) for t in read_trials(path)] == [
        (1, TrialState.COMPLETE),
        (0, TrialState.FAILED),
        (2, TrialState.RUNNING),
    ]


@pytest.mark.parametrize("torn", [b'{"event":"trial","numb', b"\xff\xfe", b"}"])
def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_writer(path: Path, torn: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(read_events(path)) == 4
    with Journal(path) as journal:
        journal.append("total", trials=9)
    assert path.read_bytes() == whole + b'{"event":"total","trials":9}\n'


@pytest.mark.parametrize("line", [b"garbage", b"[]", b'{"no": "event"}', b'{"event": 3}'])
def test_a_broken_line_in_the_middle_is_named(path: Path, line: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(JournalError, match=r"line 2 of .* is broken.*restore the file"):
        read_events(path)


def test_a_file_that_is_no_journal(path: Path) -> None:
    path.write_text('{"event": "trial"}\n')
    with pytest.raises(JournalError, match="does not begin with a study of schema 1"):
        read_events(path)
    with pytest.raises(JournalError, match="cannot read the journal"):
        read_events(path.parent / "nowhere.jsonl")


def test_a_trial_cannot_end_twice(path: Path) -> None:
    with Journal(path) as journal:
        journal.append_trial(trial(1, TrialState.FAILED))
    with pytest.raises(JournalError, match="trial 1 in .* goes on after its end"):
        read_trials(path)


@pytest.mark.parametrize(
    "event",
    [
        {"state": "complete"},
        {"number": 5, "state": "asleep", "origin": "x", "seed": 0},
        {"number": 5, "state": "complete", "origin": "x", "seed": 0, "values": {"accuracy": [None, None]}},
    ],
)
def test_an_unreadable_trial_is_an_error(path: Path, event: dict[str, object]) -> None:
    with Journal(path) as journal:
        journal.append("trial", **event)
    with pytest.raises(JournalError, match="a trial in .* cannot be read"):
        read_trials(path)


def test_only_one_process_writes(path: Path) -> None:
    with Journal(path), pytest.raises(JournalError, match="another process is working on"):
        Journal(path).open()
    with Journal(path) as journal:  # free again
        journal.append("total", trials=1)


def test_a_closed_journal_takes_nothing(path: Path) -> None:
    with pytest.raises(JournalError, match="is not open for writing"):
        Journal(path).append("total", trials=1)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot write the journal"):
        Journal(tmp_path / "no" / "journal.jsonl").open()


def test_nan_is_never_written(path: Path) -> None:
    with Journal(path) as journal, pytest.raises(ValueError, match="not JSON compliant"):
        journal.append("x", value=float("nan"))
    assert len(read_events(path)) == 4
