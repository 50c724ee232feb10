"""Quantization-aware training: starts from what ``ptq`` gives, then learns weights and step sizes (LSQ)."""

from __future__ import annotations

from dataclasses import asdict

from mobo_mpq.quant.base import Scheme
from mobo_mpq.quant.lsq import LsqScheme
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.seeding import derive
from mobo_mpq.training.data import batch_count, passes
from mobo_mpq.training.loop import Settings, finetune
from mobo_mpq.training.recipes import Job, Method, calibrated, parsed, register_recipe
from mobo_mpq.trial import Recipe


@register_recipe(Recipe("qat", epochs=1.5, options=asdict(Settings())))
class Qat(Method[Settings]):
    """A short fine-tune with distillation from the float network."""

    def options(self, recipe: Recipe) -> Settings:
        """Of the fine-tune."""
        return parsed(Settings, recipe)

    def schemes(self, options: Settings) -> tuple[Scheme, Scheme]:
        """Learned step sizes."""
        return LsqScheme(), LsqScheme(symmetric=False, per_channel=False)

    def run(self, options: Settings, job: Job, network: QuantizedNetwork) -> None:
        """Calibrate, then train."""
        calibrate_and_finetune(options, job, network)


def calibrate_and_finetune(options: Settings, job: Job, network: QuantizedNetwork) -> None:
    """Choose the ranges of activations, then train what the network has to train.

    Raises:
        TrainingDiverged: when the loss is no longer finite.
    """
    calibrated(network, job.context)
    steps = round(job.recipe.epochs * batch_count(job.context.train, job.recipe.train_fraction))
    if steps:
        batches = passes(job.context.train, derive(job.seed, "batches"), job.recipe.train_fraction)
        told = finetune(network, batches, job.context.loss, steps, options, job.context.network, job.probe)
        job.details.update(told)
