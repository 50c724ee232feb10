import logging
import warnings
from collections.abc import Iterator

import pytest
from baselines import BASELINES, make, new_proposals, silent
from botorch.acquisition.multi_objective import logei

from mobo_mpq.errors import UnknownName
from mobo_mpq.strategies.quasirandom import Sobol
from mobo_mpq.testing.toys import Toy, make_toy, run_serial
from mobo_mpq.trial import TrialState

TRIALS = 10


@pytest.fixture(autouse=True)
def python_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """BoTorch would compile a kernel, for seconds."""
    monkeypatch.setattr(logei, "_load_attempted", True)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(4, activation_bits=(4, 8), depthwise_pairs=[(4, 4), (8, 8)])


@pytest.fixture(params=sorted(BASELINES))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "ax":
        pytest.importorskip("ax", reason="the extra 'benchmarks' is not installed")
    for option, value in (("num_restarts", 2), ("raw_samples", 16), ("mc_samples", 16)):
        monkeypatch.setattr(BASELINES["qlognehvi"], option, value)
    yield request.param


def test_what_is_proposed_is_legal_new_and_leaves_the_start(name: str, toy: Toy) -> None:
    strategy = make(name, toy.problem, seed=1)
    trials = run_serial(strategy, toy, TRIALS, batch=2)
    policies = [trial.policy for trial in trials]
    assert policies[0] == toy.problem.space.highest()
    assert len(set(policies)) == TRIALS
    assert all(policy in toy.problem.space for policy in policies)
    batch = strategy.ask(2)
    assert {proposal.origin for proposal in batch} == {name.removesuffix("-mixed")}
    assert not {proposal.policy for proposal in batch} & set(policies)
    if name == "ax":
        generated = strategy._client._experiment.trials.values()
        assert [trial.generator_runs[0]._generation_node_name for trial in generated][-1] == "MBM"


def test_failed_trials_are_no_obstacle(name: str, toy: Toy) -> None:
    strategy = make(name, toy.problem, seed=0)
    for number in range(4):
        (proposal,) = strategy.ask()
        assert proposal.policy is not None
        strategy.tell([toy.trial(number, proposal.policy, TrialState.FAILED)])
    assert strategy.ask()[0].policy not in {trial.policy for trial in strategy.finished}


def test_ax_is_told_of_every_trial_whoever_proposed_it(toy: Toy) -> None:
    pytest.importorskip("ax", reason="the extra 'benchmarks' is not installed")
    strategy = make("ax", toy.problem, seed=0)
    policies = toy.problem.space.to_policies(toy.problem.space.grid())[:3]
    strategy.restore([toy.trial(number, policy) for number, policy in enumerate(policies)])
    strategy.ask(2)
    statuses = [trial.status.name for trial in strategy._client._experiment.trials.values()]
    assert statuses[:3] == ["COMPLETED"] * 3
    assert statuses.count("RUNNING") == 2
    data = strategy._client._experiment.lookup_data().df
    assert sorted(data["metric_name"].unique()) == ["accuracy", "latency_s"]
    assert data["mean"].tolist()[:2] == pytest.approx([m.value for m in toy.measure(policies[0]).values()])


def test_strategies_of_the_product_are_made_too(toy: Toy) -> None:
    assert isinstance(make("sobol", toy.problem, seed=0), Sobol)
    with pytest.raises(UnknownName):
        make("simulated-annealing", toy.problem, seed=0)


def test_a_seen_candidate_gives_way_to_one_nearby(toy: Toy) -> None:
    strategy = make("sobol", toy.problem, seed=0)
    highest = strategy.ask()[0].policy
    assert highest is not None
    proposals = new_proposals(strategy, [highest, highest], "test")
    assert len({highest, *(proposal.policy for proposal in proposals)}) == 3


def test_libraries_are_silent_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    with silent():
        warnings.warn("not shown", stacklevel=1)
        logging.getLogger("ax").warning("not shown")
    logging.getLogger("ax").warning("shown")
    assert [record.message for record in caplog.records] == ["shown"]
