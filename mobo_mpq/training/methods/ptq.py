"""Post-training quantization: ranges of least squared error, corrected biases, and, if asked for, learned rounding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.options import is_whole
from mobo_mpq.posttraining.biases import correct_analytically, correct_bias
from mobo_mpq.posttraining.equalization import equalize
from mobo_mpq.posttraining.layerwise import attach_biases, layers_in_turn
from mobo_mpq.posttraining.rounding import Rounding, round_adaptively
from mobo_mpq.quant.base import Scheme
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.quant.uniform import UniformScheme
from mobo_mpq.seeding import derive
from mobo_mpq.training.recipes import Job, Method, calibrated, parsed, register_recipe
from mobo_mpq.trial import Recipe

CHOICES = {
    "equalization": ("off", "on"),
    "rounding": ("nearest", "adaptive"),
    "biases": ("empirical", "analytic", "off"),
}


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done after training, in this order.

    Attributes:
        equalization: ``on`` scales channels so that consecutive layers have equal ranges.
        weights: how ranges of weights are chosen: ``mse``, ``minmax`` or ``percentile``.
        activations: likewise for activations.
        percentile: share of the values that ``percentile`` covers, in percent.
        rounding: of weights, to the ``nearest`` integer or ``adaptive``, learned layer by layer.
        rounding_steps: of learning, for each layer.
        biases: ``empirical`` corrects the means of each layer's outputs on the calibration data, ``analytic`` those
            that batch norms tell of, which have to be as they were trained: without equalization.
    """

    equalization: str = "off"
    weights: str = "mse"
    activations: str = "mse"
    percentile: float = 99.99
    rounding: str = "nearest"
    rounding_steps: float = 300.0
    biases: str = "empirical"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UnknownName(f"value of option '{name}' of recipe 'ptq'", str(getattr(self, name)), choices)
        if self.biases == "analytic" and self.equalization == "on":
            raise InputError(
                "option 'biases' of recipe 'ptq' is 'analytic', which needs batch norms as they were trained; leave "
                "'equalization' off, or take 'empirical'"
            )
        if not is_whole(self.rounding_steps, 1):
            raise InputError(
                f"option 'rounding_steps' of recipe 'ptq' is {self.rounding_steps!r}; expected a whole number above 0"
            )


@register_recipe(Recipe("ptq", options=asdict(Steps())))
class Ptq(Method[Steps]):
    """Nothing is trained; one pass over the calibration data, or two."""

    def options(self, recipe: Recipe) -> Steps:
        """The steps asked for."""
        steps = parsed(Steps, recipe)
        self.schemes(steps)  # which checks what belongs to them
        return steps

    def schemes(self, options: Steps) -> tuple[Scheme, Scheme]:
        """Fixed scales: per channel and symmetric for weights, per tensor and affine for activations."""
        return (
            UniformScheme(observer=options.weights, percentile=options.percentile),
            UniformScheme(
                symmetric=False, per_channel=False, observer=options.activations, percentile=options.percentile
            ),
        )

    def source(self, network: Network, options: Steps) -> Network:
        """The float network, its channels equalized where that is asked for."""
        return _equalized(network) if options.equalization == "on" else network

    def prepare(self, network: QuantizedNetwork, options: Steps) -> None:
        """Corrections need biases."""
        if options.biases != "off":
            attach_biases(network)

    def run(self, options: Steps, job: Job, network: QuantizedNetwork) -> None:
        """Calibrate, then go through the layers."""
        batches = calibrated(network, job.context)
        if options.biases == "analytic":
            correct_analytically(network, job.context.network)
        adaptive, corrected = options.rounding == "adaptive", options.biases == "empirical"
        if not (adaptive or corrected):
            return
        rounding = Rounding(steps=int(options.rounding_steps), seed=derive(job.seed, "rounding"))
        for layer in layers_in_turn(network, self.source(job.context.network, options), batches):
            if adaptive:
                round_adaptively(layer, rounding)
            if corrected:
                correct_bias(layer)


@lru_cache(maxsize=1)
def _equalized(network: Network) -> Network:
    """The same for all trials of a study."""
    return equalize(network)
