"""Searches on a proxy that cannot be: refused with a sentence, before anything is begun."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mobo_mpq.errors import InputError
from mobo_mpq.workflows.comparing import compare
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.search import resume, search


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("wrong", "right", "sentence"),
    [
        ({"strategy_options": {"lowest": 1e-4}}, {"strategy_options": {}}, "the cheapest legal policy"),
        (
            {"strategy_options": {"cost": "energy_j"}},
            {"strategy_options": {}},
            "no cost 'energy_j' in this problem; it has latency_s",
        ),
        ({"strategy": "sensitivity", "sensitivity": False}, {"sensitivity": True}, "needs sensitivities and this prob"),
        ({"gpus_per_trial": 1.0}, {"gpus_per_trial": 0.0}, "asks for a GPU, and torch finds none here"),
    ],
    ids=["budget", "cost", "sensitivity", "runner"],
)
def test_a_search_that_is_refused_leaves_its_name_free(
    toy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, Any],
    right: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    common: dict[str, Any] = dict(task=toy, name="s", home=tmp_path, runner="serial", trials=2, proxy_fraction=0.1)
    common |= {"strategy": "haq", "recipe": "ptq"}
    with pytest.raises(InputError, match=sentence):
        search(**common | wrong)
    with pytest.raises(InputError, match="there is no study in"):
        resume("s", home=tmp_path, runner="serial")
    assert search(**common | wrong | right).is_finished
    assert StudyRecord.read(Home.of(tmp_path).study("s-proxy")).evaluated == 2


@pytest.mark.usefixtures("quick")
def test_a_study_that_only_has_the_name_of_the_proxy(toy: str, tmp_path: Path) -> None:
    common: dict[str, Any] = dict(task=toy, home=tmp_path, runner="serial", strategy="random", recipe="ptq", trials=1)
    search(**common, name="s", proxy_fraction=0.1)
    folder = Home.of(tmp_path).study("s-proxy")
    shutil.rmtree(folder.path)
    search(**common, name="s-proxy")
    journals = [folder.journal, Home.of(tmp_path).study("s").journal]
    before = [journal.read_text() for journal in journals]
    sentence = (
        f"study 's-proxy' is not the proxy of study 's', another search has taken that name; move {folder.path} "
        "elsewhere, and the next resume searches on the proxy anew"
    )
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        resume("s", trials=3, home=tmp_path, runner="serial")
    assert [journal.read_text() for journal in journals] == before
    folder.path.rename(tmp_path / "elsewhere")
    assert resume("s", trials=3, home=tmp_path, runner="serial").is_finished
    assert StudyRecord.read(folder).evaluated == 3


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "there is no proxy; leave it out, or search on one with --proxy-fraction or --proxy-task"),
        (
            ["--proxy-fraction", 0.1, "--strategy", "seam"],
            "strategy 'seam' fine-tunes nothing on the proxy, it learns there; leave it out, or set the epochs of the "
            "learner in [strategy_options]",
        ),
        (
            ["--proxy-fraction", 0.1, "--recipe", "ptq"],
            "recipe 'ptq' has no fine-tune; leave it out, or take --recipe qat",
        ),
    ],
    ids=["none", "learner", "untrained"],
)
def test_epochs_that_no_fine_tune_would_have(
    toy: str, fails: Callable[..., str], tmp_path: Path, flags: list[object], sentence: str
) -> None:
    said = fails("search", "--task", toy, "--proxy-epochs", 4, *flags, "--home", tmp_path)
    assert said == f"--proxy-epochs is 4, but {sentence}"
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("epochs", "sentence"),
    [
        ("inf", "recipe 'qat' has epochs inf; expected 0 or more"),
        ("0", "--proxy-epochs is '0': input should be greater than 0"),
    ],
)
def test_epochs_that_are_no_number_of_any(
    toy: str, fails: Callable[..., str], tmp_path: Path, epochs: str, sentence: str
) -> None:
    said = fails("search", "--task", toy, "--proxy-fraction", 0.1, "--proxy-epochs", epochs, "--home", tmp_path)
    assert said.startswith(sentence)


def test_comparisons_have_no_proxy(toy: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="strategies are compared on the task itself"):
        compare("random", 1, task=toy, home=tmp_path, proxy_fraction=0.5)


@pytest.mark.parametrize("fraction", ["0", "1.5", "much"])
def test_fractions_out_of_range(toy: str, fails: Callable[..., str], tmp_path: Path, fraction: str) -> None:
    said = fails("search", "--task", toy, "--proxy-fraction", fraction, "--home", tmp_path)
    assert said.startswith(f"--proxy-fraction is '{fraction}': ")
