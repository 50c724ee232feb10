"""Do policies keep their order when they are scored on few data, and does a large margin between classes help?

    python benchmarks/proxy.py [--fraction 0.04] [--policies 24] [--seeds 2] [--margins 0,0.1,1] [--epochs 1.5,12]

Random policies and uniform bits of 'digits' on 'mpic' are fine-tuned by 'qat' on all training data, and on a share of
them, with and without the margin, for the epochs of the default and for more. Prints, for each way, Spearman's and
Kendall's rank correlation with the accuracies on all data (of the other seeds, where the way is all data itself), over
all policies and over the better half, and the CPU time of a policy. Then the same from one half of the ten classes to
the other: the network's classifier is cut in two, and what is found on 0 to 4 is compared with 5 to 9.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mobo_mpq.config import StudyConfig
from mobo_mpq.graph import Network
from mobo_mpq.objectives.tasks import LoadedTask
from mobo_mpq.policy import Policy
from mobo_mpq.seeding import rng
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import first_inputs
from mobo_mpq.training.losses import default_loss
from mobo_mpq.training.recipes import TrainingContext, default_recipe, run_recipe
from mobo_mpq.training.subsets import subset
from mobo_mpq.trial import Recipe
from mobo_mpq.workflows.preparation import prepare, resolve

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Place:
    """Data and network that policies are scored with."""

    context: TrainingContext
    val: Iterable[Any]

    def on(self, fraction: float, seed: int) -> Place:
        """The same with a share of the training data, calibration included."""
        train = subset(self.context.train, fraction, seed)
        return replace(self, context=replace(self.context, train=train, calibration=first_inputs(train, 4, seed)))

    def scores(self, policies: Sequence[Policy], recipe: Recipe, seed: int) -> tuple[Values, float]:
        """Accuracy of each policy, and the CPU seconds of one."""
        start = time.thread_time()
        values = [self._accuracy(run_recipe(recipe, self.context, policy, seed=seed)) for policy in policies]
        return np.array(values), (time.thread_time() - start) / len(policies)

    def _accuracy(self, network: nn.Module) -> float:
        with torch.no_grad():
            return float(torch.cat([(network(x).argmax(1) == y).double() for x, y in self.val]).mean())


def main() -> None:
    """Score, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fraction", type=float, default=0.04)
    parser.add_argument("--policies", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--margins", default="0,0.1,1")
    parser.add_argument("--epochs", default="1.5,12")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    margins, epochs = ([float(word) for word in text.split(",")] for text in (arguments.margins, arguments.epochs))
    prepared = prepare(resolve(StudyConfig.parse({"task": "digits", "target": "mpic"})))
    policies = drawn(prepared.problem.space, arguments.policies)
    whole = Place(TrainingContext(prepared.network, prepared.task.train, default_loss, ()), prepared.task.val)
    print("| scored on | epochs | margin | Spearman | Kendall | Spearman, better half | CPU s per policy |")
    print("|---|---|---|---|---|---|---|", flush=True)
    seeds = range(arguments.seeds)
    truths = reference(whole, policies, seeds)
    for length, margin in itertools.product(epochs, margins):
        found = [whole.on(arguments.fraction, s).scores(policies, recipe_of(length, margin), s) for s in seeds]
        report(f"{100 * arguments.fraction:g} %", length, margin, [(v, np.mean(truths, 0), cpu) for v, cpu in found])
    first, last = (half(prepared.task, whole, lowest) for lowest in (0, 5))
    there, _ = last.on(1.0, 0).scores(policies, default_recipe("qat"), 0)
    for margin in margins:
        for fraction, length in ((1.0, epochs[0]), (arguments.fraction, epochs[-1])):
            here, cpu_s = first.on(fraction, 0).scores(policies, recipe_of(length, margin), 0)
            report(f"other classes, {100 * fraction:g} %", length, margin, [(here, there, cpu_s)])


def reference(place: Place, policies: Sequence[Policy], seeds: Iterable[int]) -> list[Values]:
    """Accuracies on all data for each seed; prints how well one predicts the others."""
    recipe = default_recipe("qat")
    found = [place.on(1.0, seed).scores(policies, recipe, seed) for seed in seeds]
    values = [value for value, _ in found]
    others = [np.mean([v for v in values if v is not one] or [one], axis=0) for one in values]
    rows = [(one, other, cpu_s) for (one, cpu_s), other in zip(found, others, strict=True)]
    report("100 %", recipe.epochs, 0.0, rows)
    return values


def recipe_of(epochs: float, margin: float) -> Recipe:
    """The study's ordinary recipe with a margin."""
    default = default_recipe("qat")
    return replace(default, epochs=epochs, options={**default.options, "margin": margin})


def drawn(space: SearchSpace, count: int) -> list[Policy]:
    """Uniform bits, and random policies."""
    uniform = [space.uniform(w, a) for w in space.weight_bits for a in space.activation_bits]
    return list(dict.fromkeys([*uniform, *space.sample(count, rng(0, "proxy"))]))


def half(task: LoadedTask, whole: Place, lowest: int) -> Place:
    """Five of the classes: their data, and the outputs of the classifier that belong to them."""

    def part(loader: Any, batch_size: int, shuffle: bool) -> DataLoader[Any]:
        x, y = loader.dataset.tensors
        kept = (y >= lowest) & (y < lowest + 5)
        return DataLoader(TensorDataset(x[kept], y[kept] - lowest), batch_size, shuffle=shuffle)

    model = copy.deepcopy(task.model())
    classifier = model.get_submodule("classifier")
    cut = nn.Linear(classifier.in_features, 5)
    with torch.no_grad():
        cut.weight.copy_(classifier.weight[lowest : lowest + 5])
        cut.bias.copy_(classifier.bias[lowest : lowest + 5])
    model.set_submodule("classifier", cut)
    network = Network.from_model(model.eval(), task.example)
    train = part(task.train, 64, shuffle=True)
    return Place(replace(whole.context, network=network, train=train), part(task.val, 256, shuffle=False))


def report(place: str, epochs: float, margin: float, rows: Sequence[tuple[Values, Values, float]]) -> None:
    """One row: means over seeds of the correlations between what was found and what it should have been."""
    found = []
    for values, truth, _ in rows:
        better = truth >= np.median(truth)
        found.append(
            (spearmanr(values, truth)[0], kendalltau(values, truth)[0], spearmanr(values[better], truth[better])[0])
        )
    rho, tau, top = np.mean(found, axis=0)
    cpu_s = np.mean([row[2] for row in rows])
    print(f"| {place} | {epochs:g} | {margin:g} | {rho:.3f} | {tau:.3f} | {top:.3f} | {cpu_s:.2f} |", flush=True)


if __name__ == "__main__":
    main()
