"""Float is a choice of bits: 32 on a device that computes in float as well, from the space to the exported file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from mobo_mpq.config import StudyConfig
from mobo_mpq.policy import Policy
from mobo_mpq.sensitivity import perturb
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.preparation import prepare, resolve
from mobo_mpq.workflows.record import StudyRecord

Command = Callable[..., int]
BITS = ("--target", "x86-ort", "--weight-bits", "8,32", "--activation-bits", "8,32")


@pytest.fixture(scope="module", params=["ptq", "qat"])
def studied(
    request: pytest.FixtureRequest, command: Command, toy: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    home = tmp_path_factory.mktemp("float")
    chosen = ("--recipe", request.param) + (("--epochs", "0.2") if request.param == "qat" else ())
    code = command(
        "search", "--task", toy, "--name", "float", *BITS, *chosen, "--objectives", "latency,size", "--trials", 5,
        "--strategy", "sobol", "--runner", "serial", "--home", home,
    )  # fmt: skip
    assert code == 0
    return home


def test_a_search_mixes_float_and_integers(studied: Path) -> None:
    record = StudyRecord.read(Home.of(studied).existing("float"))
    policies = [trial.policy for trial in record.trials if trial.policy is not None]
    assert len(policies) == 5
    assert set(policies[0].values()) == {(32, 32)}  # the highest bits come first
    pairs = {tuple(bits) for policy in policies for bits in policy.values()}
    assert pairs == {(8, 8), (32, 32)}  # no 8/32: the device has no kernel for it


def test_a_dry_run_prices_both(command: Command, toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("search", "--task", toy, *BITS, "--objectives", "latency,size", "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [layer["bits"] for layer in document["layers"]] == [[[8, 8], [32, 32]]] * 3
    assert document["policies"] == 2**3
    corners = {corner["policy"]: corner["costs"] for corner in document["corners"]}
    assert corners["highest"]["size_bytes"] == 4 * corners["lowest"]["size_bytes"] == 4 * document["weights"]


def test_leaving_a_tensor_in_float_perturbs_nothing(toy: str) -> None:
    bits = {"weight_bits": (8, 32), "activation_bits": (8, 32)}
    prepared = prepare(resolve(StudyConfig.parse({"task": toy, "target": "x86-ort", "recipe": "ptq", **bits})))
    space = prepared.problem.space
    table = perturb(prepared.network, space, [next(iter(prepared.task.val))])
    in_float = space.options.index((32, 32))
    assert np.all(table.values[:, in_float] == 0.0)
    assert table.values[:, space.options.index((8, 8))].max() > 0.0


def test_a_mixed_policy_is_exported_and_verified(studied: Path, command: Command, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for number in range(5):
        out = tmp_path / str(number)
        assert command("export", "--study", "float", "--trial", number, "--home", studied, "--out", out) == 0
        policy = Policy.from_dict(json.loads((out / "policy.json").read_text())["layers"])
        kinds = Counter(node.op_type for node in onnx.load(out / "model.onnx").graph.node)
        quantized = sum(bits == (8, 8) for bits in policy.values())
        assert (kinds["QuantizeLinear"] > 0) == (quantized > 0)
        seen["mixed" if 0 < quantized < len(policy) else "uniform"] += 1
    assert seen["mixed"] >= 2
