"""Post-training quantization with weights that are sums of several low-bit vectors, where outputs need them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.folding import tensor_of
from mobo_mpq.layers import LayerSpec
from mobo_mpq.options import is_whole
from mobo_mpq.policy import LayerBits
from mobo_mpq.posttraining.biases import correct_bias
from mobo_mpq.posttraining.layerwise import attach_biases, layers_in_turn
from mobo_mpq.posttraining.points import add_points
from mobo_mpq.quant.base import Quantizer, Role, Scheme
from mobo_mpq.quant.multipoint import MultipointQuantizer, extra_points, widened
from mobo_mpq.quant.transform import ACTIVATION, WEIGHT, QuantizedNetwork, quantizers
from mobo_mpq.training.recipes import Job, Method, calibrated, parsed, register_recipe
from mobo_mpq.trial import Recipe

BIASES = ("empirical", "off")


@dataclass(frozen=True, slots=True)
class Points:
    """How many points there are.

    Attributes:
        extra: share of a layer's channels that the layer is wider: 0.1 gives a layer of 64 channels 7 further points.
        points: at most, of one channel.
        biases: ``empirical`` corrects the means of each layer's outputs on the calibration data.
    """

    extra: float = 0.1
    points: float = 3.0
    biases: str = "empirical"

    def __post_init__(self) -> None:
        if not is_whole(self.points, 1, 8):
            raise InputError(
                f"option 'points' of recipe 'multipoint' is {self.points!r}; expected a whole number from 1 to 8"
            )
        if not 0.0 <= self.extra <= self.points - 1:
            raise InputError(
                f"option 'extra' of recipe 'multipoint' is {self.extra!r}; expected a number from 0 to "
                f"{self.points - 1:g}, one less than 'points'"
            )
        if self.biases not in BIASES:
            raise UnknownName("value of option 'biases' of recipe 'multipoint'", self.biases, BIASES)


@register_recipe(Recipe("multipoint", options=asdict(Points())))
class Multipoint(Method[Points]):
    """Nothing is trained; one pass over the calibration data, and one layer after layer."""

    adds_points = True

    def options(self, recipe: Recipe) -> Points:
        """How many points."""
        return parsed(Points, recipe)

    def schemes(self, options: Points) -> tuple[Scheme, Scheme]:
        """Those of the first points, and of activations: as in ``ptq``."""
        return WEIGHT, ACTIVATION

    def as_run(self, layer: LayerSpec, bits: LayerBits, options: Points) -> LayerSpec:
        """A layer of fewer than 8 weight bits is wider by its further points."""
        return widened(layer, extra_points(layer, bits.weight, options.extra))

    def prepare(self, network: QuantizedNetwork, options: Points) -> None:
        """Room for further points, and biases to correct."""
        if options.biases != "off":
            attach_biases(network)
        specs = {layer.name: layer for layer in network.layers}
        for name, quantizer in quantizers(network).items():
            assert quantizer.site is not None, "apply_policy says where each sits"
            if quantizer.site.role is Role.WEIGHT and isinstance(quantizer, Quantizer):
                extra = extra_points(specs[quantizer.site.layers[0]], quantizer.bits, options.extra)
                weight = tensor_of(network, quantizer.site.tensor)
                if extra:
                    network.set_submodule(
                        name, MultipointQuantizer(quantizer, tuple(weight.shape), extra).to(weight.device)
                    )

    def run(self, options: Points, job: Job, network: QuantizedNetwork) -> None:
        """Calibrate, then go through the layers."""
        batches = calibrated(network, job.context)
        wide = {
            module.site.tensor: module
            for module in network.modules()
            if isinstance(module, MultipointQuantizer) and module.site is not None
        }
        for layer in layers_in_turn(network, job.context.network, batches):
            if layer.operator.weight in wide:
                add_points(layer, wide[layer.operator.weight], int(options.points))
            if options.biases != "off":
                correct_bias(layer)
