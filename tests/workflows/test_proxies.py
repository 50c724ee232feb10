"""Searches on a proxy, whose policies are evaluated on the task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError, JournalError, PolicyError
from mobo_mpq.journal import read_events
from mobo_mpq.training.recipes import default_recipe
from mobo_mpq.workflows import evaluation, sensitivities, study_run
from mobo_mpq.workflows.evaluation import Evaluator
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.preparation import prepare, resolve
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.runners import ray_session
from mobo_mpq.workflows.search import resume, search

HALF = """
import importlib.util
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

spec = importlib.util.spec_from_file_location("toy_of_ten", {toy!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)


class Half(toys.Toy):
    "Five of the digits: the same layers, another classifier."

    def __init__(self):
        super().__init__()
        for name in ("train", "val", "test"):
            x, y = getattr(self, name).dataset.tensors
            setattr(self, name, DataLoader(TensorDataset(x[y < 5], y[y < 5]), batch_size=100, shuffle=name == "train"))

    def model(self):
        net = super().model()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net[5] = nn.Linear(128, 5)
            optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
            for _ in range(3):
                for x, y in self.train:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(net(x), y).backward()
                    optimizer.step()
        return net.eval()


class Entropy(Half):
    "The same, by another metric."

    metric_name = "cross_entropy"
    direction = "minimize"

    def metric(self, model, loader):
        losses = [nn.functional.cross_entropy(model(x), y, reduction="sum").item() for x, y in loader]
        return sum(losses) / len(loader.dataset)


class Other(Half):
    "Another network."

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def begin(home: Path, toy: str, **settings: Any) -> StudyRecord:
    given = dict(task=toy, name="s", runner="serial", strategy="random", trials=5, home=home, proxy_fraction=0.1)
    return search(**(given | dict(recipe="qat") | settings))


def told(home: Path, name: str) -> list[Any]:
    """What does not depend on when, or how fast, it ran."""
    record = StudyRecord.read(Home.of(home).study(name))
    tested = [(number, values["accuracy"].value) for number, values in sorted(record.tested.items())]
    return [(t.number, t.policy, t.origin, t.seed, t.values["accuracy"].value) for t in record.trials] + tested


@pytest.fixture(scope="module")
def home(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a finished search on a tenth of the data: read it only."""
    place = tmp_path_factory.mktemp("proxies")
    begin(place, toy)
    return place


@pytest.fixture(scope="module")
def halves(toy: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with tasks to search on."""
    path = tmp_path_factory.mktemp("tasks") / "halves.py"
    path.write_text(HALF.format(toy=toy.rpartition(":")[0]))
    return str(path)


def test_the_front_of_the_proxy_is_evaluated_on_the_task(home: Path) -> None:
    there, here = (StudyRecord.read(Home.of(home).study(name)) for name in ("s-proxy", "s"))
    assert there.header["proxy_of"] == "s" and here.header["proxy_study"] == "s-proxy"
    assert there.is_finished and there.evaluated == 5 and here.is_finished
    found = {trial.policy for trial in there.finished if trial.number in there.members()}
    assert [trial.origin for trial in here.finished] == ["highest"] + ["proxy"] * (len(here.finished) - 1)
    assert {trial.policy for trial in here.finished} == found | {here.trials[0].policy}
    assert here.infos == there.infos


def test_the_proxy_is_a_tenth_and_the_task_is_not(home: Path, toy: str) -> None:
    folders = [Home.of(home).study(name) for name in ("s", "s-proxy")]
    seen = []
    for folder in folders:
        prepared = prepare(folder.config(), known=read_events(folder.journal)[0])
        assert prepared.config.name == folder.name
        evaluator = Evaluator(prepared.work)
        seen.append(sum(len(x) for x, _ in evaluator.context.train))
        trial = StudyRecord.read(folder).finished[1]
        assert trial.policy is not None
        again = evaluator.run(trial.policy, seed=trial.seed).measurement
        assert again is not None and again.value == trial.values["accuracy"].value
    assert seen == [1000, 100]


def test_mlflow_shows_both(home: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    assert {"s", "s-proxy"} <= {one.name for one in client.search_experiments()}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_workers_of_ray_find_the_same(home: Path, toy: str, tmp_path: Path) -> None:
    with ray_session(None, 1):
        begin(tmp_path, toy, runner="ray", concurrency=1)
    for name in ("s", "s-proxy"):
        assert told(tmp_path, name) == told(home, name)
        there, here = (StudyRecord.read(Home.of(place).study(name)) for place in (home, tmp_path))
        assert [t.values for t in here.trials] == [t.values for t in there.trials]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("after", [0, 2, 6])
def test_a_search_goes_on_where_it_was_interrupted(
    home: Path, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Before the first trial on the proxy, which leaves nothing to go on with; among those; among those on the task."""
    finished: list[Any] = []
    real = study_run.Reporter.finished

    def interrupt(self: Any, trial: Any) -> None:
        real(self, trial)
        finished.append(trial)
        if len(finished) == after:
            raise KeyboardInterrupt

    def at_once(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if after:
            patch.setattr(study_run.Reporter, "finished", interrupt)
        else:
            patch.setattr(study_run.StudyRun, "go", at_once)
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path, toy)
    if after:
        go_on = "study 's' exists already, with .* trials; go on with 'mobo-mpq resume s'"
        with pytest.raises(InputError, match=go_on):
            begin(tmp_path, toy)
        resume("s-proxy" if after == 2 else "s", home=tmp_path, runner="serial")
    else:
        begin(tmp_path, toy)
    for name in ("s", "s-proxy"):
        assert told(tmp_path, name) == told(home, name)


@pytest.mark.usefixtures("quick")
def test_nobody_takes_a_study_that_waits_for_its_proxy(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has a trial yet, and another search wants the name."""
    files = [tmp_path / "studies/s" / name for name in ("journal.jsonl", "study.toml")]
    real, refused = study_run.StudyRun.go, []

    def go(self: Any) -> StudyRecord:
        if self.prepared.proxy_of is not None:
            before = [file.read_text() for file in files]
            with pytest.raises(JournalError, match="another process is working on .*studies/s/journal.jsonl"):
                begin(tmp_path, toy, proxy_fraction=1.0, recipe="ptq", trials=1)
            assert [file.read_text() for file in files] == before
            refused.append(self.folder.name)
        return real(self)

    monkeypatch.setattr(study_run.StudyRun, "go", go)
    record = begin(tmp_path, toy, recipe="ptq", trials=1)
    assert refused == ["s-proxy"]
    assert record.is_finished and record.header["proxy_study"] == "s-proxy"


@pytest.mark.usefixtures("quick")
def test_a_new_total_is_one_of_the_proxy(toy: str, tmp_path: Path) -> None:
    first = begin(tmp_path, toy, trials=2)
    with pytest.raises(InputError, match="study 's-proxy' has 2 trials already; --trials 1 would take some away"):
        resume("s", trials=1, home=tmp_path, runner="serial")
    more = resume("s", trials=9, home=tmp_path, runner="serial")
    assert StudyRecord.read(Home.of(tmp_path).study("s-proxy")).evaluated == 9
    assert [t.policy for t in more.finished][: len(first.finished)] == [t.policy for t in first.finished]
    assert len(more.finished) > len(first.finished)
    before = (tmp_path / "studies/s/journal.jsonl").read_text()
    assert resume("s", home=tmp_path, runner="serial").evaluated == more.evaluated
    assert (tmp_path / "studies/s/journal.jsonl").read_text() == before, "there was nothing to do"


@pytest.mark.usefixtures("quick")
def test_sensitivities_are_those_of_the_proxy_and_kept(toy: str, tmp_path: Path) -> None:
    begin(tmp_path, toy, strategy="sensitivity", recipe="ptq", trials=3)
    assert "sensitivity" not in read_events(tmp_path / "studies/s/journal.jsonl")[0]
    header = read_events(tmp_path / "studies/s-proxy/journal.jsonl")[0]
    again = prepare(Home.of(tmp_path).study("s-proxy").config(), known=header)
    assert again.sensitivities is not None and again.sensitivities.to_dict() == header["sensitivity"]
    assert resume("s", trials=5, home=tmp_path, runner="serial").evaluated >= 3


@pytest.mark.usefixtures("quick")
def test_sensitivities_are_measured_on_the_data_of_the_proxy(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Any] = []
    real = sensitivities.measure

    def note(kind: str, network: Any, space: Any, given: Any, more: Any) -> Any:
        batches.extend(given)
        return real(kind, network, space, given, more)

    monkeypatch.setenv("MOBO_MPQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sensitivities, "measure", note)
    begin(tmp_path, toy, strategy="sensitivity", recipe="ptq", trials=1, proxy_fraction=0.15)
    folder = Home.of(tmp_path).study("s-proxy")
    seen = Evaluator(prepare(folder.config(), known=read_events(folder.journal)[0]).work).train
    rows = {tuple(row.flatten().tolist()) for x, _ in seen for row in x}
    assert [len(x) for x, _ in batches] == [100, 50]
    assert {tuple(row.flatten().tolist()) for x, _ in batches for row in x} == rows


@pytest.mark.usefixtures("quick")
def test_a_proxy_of_another_model_is_refused(toy: str, halves: str, fails: Callable[..., str], tmp_path: Path) -> None:
    source, copied = Path(halves).read_text(), tmp_path / "mine.py"
    copied.write_text(source)
    begin(tmp_path, toy, proxy_task=f"{copied}:Half", proxy_fraction=1.0, recipe="ptq", trials=1)
    copied.write_text(source.replace("torch.manual_seed(1)", "torch.manual_seed(2)"))
    said = fails("export", "--study", "s-proxy", "--trial", 0, "--home", tmp_path, "--out", tmp_path / "out")
    assert said.startswith(f"the model of task '{copied}:Half' has other weights than when study 's-proxy' began; ")


def test_whoever_takes_up_a_proxy_has_its_weights_checked(home: Path) -> None:
    folder = Home.of(home).study("s-proxy")
    known = read_events(folder.journal)[0]
    assert prepare(folder.config(), known=known).digest == known["model_digest"]
    with pytest.raises(PolicyError, match="has other weights than when study 's-proxy' began"):
        prepare(folder.config(), known={**known, "model_digest": "other"})


def test_the_worst_quality_is_of_the_task_alone(toy: str, halves: str) -> None:
    """A number of the one metric means nothing in the other."""
    given = dict(task=toy, recipe="ptq", worst_quality=0.4)
    other = prepare(resolve(StudyConfig.parse(given | {"proxy_task": f"{halves}:Entropy"})))
    same = prepare(resolve(StudyConfig.parse(given | {"proxy_fraction": 0.5})))
    assert other.proxy is not None and same.proxy is not None
    references = [one.problem.quality.reference for one in (other, same, same.proxy, other.proxy)]
    assert references == [0.4, 0.4, 0.4, pytest.approx(1.2 * other.proxy.baseline["val"]["cross_entropy"].value)]


def test_a_proxy_has_epochs_of_its_own(toy: str) -> None:
    config = StudyConfig.parse(dict(task=toy, proxy_fraction=0.1, epochs=0.5, proxy_epochs=4))
    prepared = prepare(resolve(config))
    assert prepared.proxy is not None
    assert (prepared.work.recipe.epochs, prepared.proxy.work.recipe.epochs) == (0.5, 4.0)
    assert prepared.proxy.work.recipe.options == prepared.work.recipe.options


@pytest.mark.usefixtures("quick")
def test_policies_of_another_task(toy: str, halves: str, tmp_path: Path) -> None:
    """Its network, data and quality, but the costs of the network that will be shipped."""
    here = begin(tmp_path, toy, proxy_task=f"{halves}:Half", proxy_fraction=1.0, trials=3)
    there = StudyRecord.read(Home.of(tmp_path).study("s-proxy"))
    assert there.header["task"] == f"{halves}:Half" and here.header["task"] == toy
    assert there.header["model_digest"] != here.header["model_digest"]
    assert there.infos[0].reference != here.infos[0].reference and there.infos[1] == here.infos[1]
    both = {t.policy: t.values["latency_s"].value for t in there.finished}
    assert all(t.values["latency_s"].value == both[t.policy] for t in here.finished if t.policy in both)


@pytest.mark.usefixtures("quick")
def test_learners_learn_on_the_proxy(toy: str, halves: str, tmp_path: Path) -> None:
    """One study: its trials learn on the proxy, and are scored on the task."""
    options = {"epochs": 2.0}
    steps = {}
    for fraction, task in ((0.1, None), (1.0, None), (1.0, f"{halves}:Half")):
        record = begin(
            tmp_path, toy, name=f"s{fraction}{bool(task)}", strategy="seam", trials=2, strategy_options=options,
            proxy_fraction=fraction, proxy_task=task, recipe="ptq",
        )  # fmt: skip
        assert "proxy_study" not in record.header
        steps[fraction, task is None] = record.finished[1].details["steps"]
        assert 0.0 < record.finished[1].details["learned_quality"] <= 1.0
    assert steps == {(0.1, True): 2.0, (1.0, True): 20.0, (1.0, False): 12.0}


def test_a_network_of_other_layers_is_refused(toy: str, halves: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has a network of other layers than task .*they differ at '0'; expected"):
        begin(tmp_path, toy, proxy_task=f"{halves}:Other")
    assert not (tmp_path / "studies").exists()


@pytest.mark.usefixtures("quick")
def test_a_study_of_the_proxys_name_is_left_alone(toy: str, tmp_path: Path) -> None:
    begin(tmp_path, toy, name="s-proxy", recipe="ptq", trials=1, proxy_fraction=1.0)
    with pytest.raises(InputError, match="study 's-proxy' exists already"):
        begin(tmp_path, toy)
    assert not (tmp_path / "studies/s").exists()


@pytest.mark.usefixtures("quick")
def test_the_flag_changes_the_fine_tunes_on_the_proxy_alone(
    toy: str, command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[float] = []
    real = evaluation.run_recipe

    def note(recipe: Any, *arguments: Any, **more: Any) -> Any:
        epochs.append(recipe.epochs)
        return real(recipe, *arguments, **more)

    monkeypatch.setattr(evaluation, "run_recipe", note)
    flags = ("--proxy-fraction", 0.1, "--proxy-epochs", 3, "--strategy", "sobol", "--trials", 3, "--runner", "serial")
    assert command("search", "--task", toy, *flags, "--name", "s", "--home", tmp_path) == 0
    there, here = (StudyRecord.read(Home.of(tmp_path).study(name)).evaluated for name in ("s-proxy", "s"))
    assert there == 3 and here > 0
    assert epochs == [3.0] * there + [default_recipe("qat").epochs] * here


@pytest.mark.usefixtures("quick")
def test_flags_reach_the_study_file(toy: str, halves: str, command: Callable[..., int], tmp_path: Path) -> None:
    flags = ("--proxy-fraction", 0.2, "--proxy-task", f"{halves}:Half", "--name", "s", "--home", tmp_path)
    code = command("search", "--task", toy, "--recipe", "ptq", "--trials", 1, "--strategy", "sobol", "--runner",
                   "serial", "--json", *flags)  # fmt: skip
    assert code == 0
    config = Home.of(tmp_path).study("s").config()
    assert (config.proxy_fraction, config.proxy_task) == (0.2, f"{halves}:Half")
    assert json.loads(json.dumps(config.model_dump(mode="json")))["name"] == "s"


def test_addresses_of_proxies_are_resolved(toy: str, monkeypatch: pytest.MonkeyPatch, halves: str) -> None:
    monkeypatch.chdir(Path(halves).parent)
    config = resolve(StudyConfig.parse(dict(task=toy, proxy_task="halves.py:Half")))
    assert config.proxy_task == f"{halves}:Half"
    assert resolve(StudyConfig.parse(dict(task=toy, proxy_task="digits"))).proxy_task == "digits"
