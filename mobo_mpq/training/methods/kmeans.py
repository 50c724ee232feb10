"""Weights that share the entries of a code book, found by k-means; a fine-tune moves the entries."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec
from mobo_mpq.options import is_whole
from mobo_mpq.policy import LayerBits
from mobo_mpq.quant.base import Scheme
from mobo_mpq.quant.codebook import CodebookScheme, codebook_bytes
from mobo_mpq.quant.lsq import LsqScheme
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training.loop import Settings
from mobo_mpq.training.methods.qat import calibrate_and_finetune
from mobo_mpq.training.recipes import Job, Method, parsed, register_recipe
from mobo_mpq.trial import Recipe


@dataclass(frozen=True, slots=True)
class Clusters(Settings):
    """How a code book is found and trained: ``scale_lr`` is the rate of its entries, and of activations' step sizes.

    Attributes:
        iterations: of Lloyd's algorithm, at most.
    """

    iterations: float = 50.0

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not is_whole(self.iterations, 1):
            raise InputError(
                f"option 'iterations' of recipe 'kmeans' is {self.iterations!r}; expected a whole number above 0"
            )


@register_recipe(Recipe("kmeans", epochs=1.5, options=asdict(Clusters())))
class Kmeans(Method[Clusters]):
    """The fine-tune of ``qat``, in which weights move with their centroids alone; activations are those of ``qat``."""

    def options(self, recipe: Recipe) -> Clusters:
        """Of the code book and the fine-tune."""
        return parsed(Clusters, recipe)

    def schemes(self, options: Clusters) -> tuple[Scheme, Scheme]:
        """A code book for weights, learned step sizes for activations."""
        return CodebookScheme(int(options.iterations)), LsqScheme(symmetric=False, per_channel=False)

    def tables_bytes(self, layer: LayerSpec, bits: LayerBits, options: Clusters) -> float:
        """The code book."""
        return codebook_bytes(layer, bits.weight)

    def run(self, options: Clusters, job: Job, network: QuantizedNetwork) -> None:
        """Calibrate, then train the centroids."""
        calibrate_and_finetune(options, job, network)
