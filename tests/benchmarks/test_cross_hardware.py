"""A policy is best on the device that it was searched for: HAQ's cross-hardware table, in kind."""

from __future__ import annotations

import cross_hardware
import numpy as np
import pytest
from cross_hardware import TARGETS, best_of_all, diagonal_wins, fastest, latencies, of_table, searched
from exhaustive import load_table

from mobo_mpq.errors import InputError
from mobo_mpq.objectives.hardware import load_target


@pytest.mark.parametrize(
    ("name", "targets", "max_drop"),
    [("digits-ptq-weights", TARGETS, 2.0), ("digits-qat", ("mpic", "bismo-edge", "ne16"), 1.0)],
)
def test_the_best_policy_of_each_device_is_best_there_alone(
    name: str, targets: tuple[str, ...], max_drop: float
) -> None:
    devices = of_table(name, targets)
    policies = {target: best_of_all(device, max_drop) for target, device in devices.items()}
    assert len(set(policies.values())) == 3
    assert diagonal_wins(latencies(devices, policies))
    for target, device in devices.items():
        highest = device.problem.space.highest()
        assert device.evaluate(policies[target]).value >= device.float_quality - 0.01 * max_drop
        assert device.problem.costs[0](policies[target]) < device.problem.costs[0](highest)


@pytest.mark.parametrize("seed", [0, 1])
def test_so_is_the_one_that_a_search_finds(seed: int) -> None:
    devices = of_table("digits-ptq-weights", TARGETS)
    found = {target: searched(device, 48, seed, 2.0) for target, device in devices.items()}
    assert diagonal_wins(latencies(devices, found))


def test_a_table_is_priced_anew_with_the_same_qualities() -> None:
    table = load_table("digits-qat")
    mpic, other = table.problem.costs[0], table.priced(load_target("mpic"), ("latency", "size")).problem
    assert [info.name for info in other.infos] == ["accuracy", "latency_s", "size_bytes"]
    policies = table.problem.space.to_policies(table.problem.space.grid())[::50]
    assert mpic.info.name == "size_bytes"
    assert [other.costs[1](policy) for policy in policies] == pytest.approx([mpic(policy) for policy in policies])
    with pytest.raises(InputError, match="target 'edge-tpu' has no latency"):
        table.priced(load_target("edge-tpu"))


def test_of_equals_the_most_accurate_one_is_taken() -> None:
    (device,) = of_table("digits-qat", ["gap8"]).values()  # where all of these cost the same
    policies = device.problem.space.to_policies(device.problem.space.grid())
    best = max(device.evaluate(policy).value for policy in policies)
    assert device.evaluate(fastest(device, policies, 1.0)).value == best


def test_a_tie_is_no_win() -> None:
    assert diagonal_wins(np.array([[1.0, 3.0], [2.0, 2.0]]))
    assert not diagonal_wins(np.array([[1.0, 3.0], [1.0, 2.0]]))
    assert not diagonal_wins(np.array([[1.0, 2.0], [2.0, 3.0]]))


def test_the_script_prints_the_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cross_hardware.py", "--table", "digits-qat", "--seeds", "1", "--trials", "4"])
    cross_hardware.main()
    shown = capsys.readouterr().out
    assert "the best of all policies: the diagonal" in shown
    assert "searched with 4 trials, seed 0: the diagonal" in shown
    assert "of 1 seeds" in shown
