"""A network on which single tensors are quantized differently, again and again, without being built anew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mobo_mpq.choices import Variable
from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network, call
from mobo_mpq.policy import Policy
from mobo_mpq.posttraining.layerwise import attach_biases, channel_axis, own_bias
from mobo_mpq.quant.base import Quantizer, Role, Scheme, TensorQuantizer, build_quantizer
from mobo_mpq.quant.functional import OFF_BITS, expand
from mobo_mpq.quant.observers import Observer
from mobo_mpq.quant.transform import apply_policy, quantizers
from mobo_mpq.sensitivity.assembly import Setting
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import Inputs, device_of
from mobo_mpq.training.divergence import Divergence, Tally

Change = tuple[Setting, ...]
"""Settings of different variables, together; all others have their highest bits."""


class Slot(nn.Module):
    """In the place of a quantizer: observes its tensor, quantizes it to any width, or repeats what it gave last.

    Args:
        quantizer: whose place it takes.
        scheme: of the quantizer.
        parameter: the weight that is quantized; ``None`` for an activation.
    """

    def __init__(self, quantizer: TensorQuantizer, scheme: Scheme, parameter: Tensor | None) -> None:
        super().__init__()
        self.scheme, self.parameter = scheme, None if parameter is None else parameter.detach()
        self.shape = () if parameter is None else tuple(parameter.shape)
        self.axis = None if quantizer.site is None else quantizer.site.axis
        self.observer = Observer(quantizer.axis)
        self.fitted: dict[int, TensorQuantizer] = {}
        self.bits: int | None = None  # observes
        self.keeps, self.repeats, self.idle = False, False, False
        self.result: Tensor | None = None
        if parameter is not None:
            self.observer.observe(parameter)
            self.fitted[quantizer.bits] = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Do what the fields say."""
        if self.repeats and self.result is not None:
            return self.result
        if self.idle:
            return x
        if self.bits is None:
            self.observer.observe(x)
        elif self.bits not in OFF_BITS:
            x = self.quantized(x, self.bits)
        self.result = x if self.keeps else self.result
        return x

    def quantized(self, x: Tensor, bits: int) -> Tensor:
        """``x`` on the grid that suits what was observed."""
        return _quantized(self._fit(bits), x)

    def _fit(self, bits: int) -> TensorQuantizer:
        if bits not in self.fitted:
            quantizer = build_quantizer(self.scheme, bits, shape=self.shape, axis=self.axis)
            assert quantizer is not None, "16 and 32 bits quantize nothing"
            quantizer.to(self.observer.extremes()[0].device)
            quantizer.fit(self.observer)
            quantizer.calibrated = True
            self.fitted[bits] = quantizer
        return self.fitted[bits]


class Mean(nn.Module):
    """Behind a layer: remembers the means of its outputs in float, by channel, then lets other outputs have them.

    Args:
        axis: of the channels.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.active, self.remembers = False, False
        self.mean: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Do what the fields say."""
        if not self.active:
            return x
        axis = self.axis % x.ndim
        mean = x.mean([other for other in range(x.ndim) if other != axis], keepdim=True)
        if self.remembers or self.mean is None:
            self.mean = mean
            return x
        return x + (self.mean - mean)


class Bench:
    """A quantized copy of a network that has a :class:`Slot` in the place of every quantizer.

    Args:
        network: in float; left as it is.
        space: of its policies.
        schemes: of weights and activations.
        biases: whether the means of the layers' outputs are corrected in :meth:`measure`.

    Raises:
        PolicyError: when the space is of another network.
    """

    def __init__(
        self, network: Network, space: SearchSpace, schemes: Mapping[Role, Scheme], *, biases: bool = False
    ) -> None:
        self.space = space
        self.network = apply_policy(
            network, _quantizers_wanted(space), weight=schemes[Role.WEIGHT], activation=schemes[Role.ACTIVATION]
        )
        self.slots: dict[str, Slot] = {}
        self._of_tensor: dict[tuple[Role, str], str] = {}
        for name, quantizer in quantizers(self.network).items():
            assert quantizer.site is not None, "apply_policy says where each sits"
            role, tensor = quantizer.site.role, quantizer.site.tensor
            parameter = tensor_of(self.network, tensor) if role is Role.WEIGHT else None
            self.slots[name] = Slot(quantizer, schemes[role], parameter).to(device_of(network))
            self._of_tensor[role, tensor] = name
            self.network.set_submodule(name, self.slots[name])
        self.means = _behind_layers(self.network) if biases else []

    def calibrate(self, batches: Iterable[Inputs]) -> None:
        """Observe all activations, weights at their highest bits, then give all variables their highest bits."""
        self._set_highest(Role.WEIGHT)
        for inputs in batches:
            call(self.network, inputs)
        self._set_highest(Role.ACTIVATION)

    def measure(self, divergence: Divergence, batches: Sequence[Inputs]) -> dict[Setting | None, float]:
        """Mean divergence of the highest bits, under ``None``, and of every setting; infinite where it is no number."""
        settings = [(variable, bits) for variable in self.space.variables for bits in variable.choices[:-1]]
        found = self.measure_changes(divergence, batches, [(setting,) for setting in settings])
        return {change[0] if change else None: mean for change, mean in found.items()}

    def measure_changes(
        self, divergence: Divergence, batches: Sequence[Inputs], changes: Sequence[Change]
    ) -> dict[Change, float]:
        """Mean divergence of the highest bits, under ``()``, and of every change; infinite where it is no number.

        Batch by batch, so that no more than the results for one of them are held in memory.
        """
        reached = {variable: self._reached(variable) for variable in self.space.variables}
        totals: dict[Change, Tally] = {change: Tally() for change in ((), *changes)}
        for inputs in batches:
            self._remember_means(inputs)
            self._mark(keeps=True)
            self._add(totals[()], divergence, inputs)
            for change in changes:
                self._mark(repeats=True, but=frozenset[str]().union(*(reached[variable] for variable, _ in change)))
                for variable, bits in change:
                    self._set(variable, bits)
                self._add(totals[change], divergence, inputs)
                for variable, _ in change:
                    self._set(variable, variable.choices[-1])
            self._mark()
        for mean in self.means:
            mean.active = False
        means = {change: tally.mean for change, tally in totals.items()}
        return {change: math.inf if mean is None else mean for change, mean in means.items()}

    def _remember_means(self, inputs: Inputs) -> None:
        """Of one batch in float; from then on, outputs get them."""
        if not self.means:
            return
        for mean in self.means:
            mean.active = mean.remembers = True
        with self.in_float():
            call(self.network, inputs)
        for mean in self.means:
            mean.remembers = False

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Within the block nothing is quantized."""
        for slot in self.slots.values():
            slot.idle = True
        try:
            yield
        finally:
            for slot in self.slots.values():
                slot.idle = False

    def error(self, name: str, bits: int) -> float:
        """Mean squared error of a slot's tensor at a number of bits: of a weight, or of what was observed."""
        slot = self.slots[name]
        if bits in OFF_BITS:
            return 0.0
        values = slot.observer.values() if slot.parameter is None else slot.parameter
        values = values.reshape(-1) if slot.parameter is None else values
        return float((slot.quantized(values, bits) - values).double().square().mean())

    def _add(self, total: Tally, divergence: Divergence, inputs: Inputs) -> None:
        with divergence.recorded(self.network) as tally:
            call(self.network, inputs)
        total.total += tally.total
        total.weight += tally.weight

    def _mark(self, *, keeps: bool = False, repeats: bool = False, but: frozenset[str] = frozenset()) -> None:
        for name, slot in self.slots.items():
            slot.keeps, slot.repeats = keeps, repeats and name not in but
            slot.result = slot.result if keeps or repeats else None

    def _set_highest(self, role: Role) -> None:
        for variable in self.space.decisions:
            if variable.role == role:
                self._set(variable, variable.choices[-1])

    def _set(self, variable: Variable, bits: int) -> None:
        for name in self.slots_of(variable):
            self.slots[name].bits = bits

    def slots_of(self, variable: Variable) -> list[str]:
        """Names of the slots that a variable sets; none where all its choices leave the tensors in float."""
        trace = self.network.trace
        operators = [operator for operator in trace.operators if operator.spec.name in variable.layers]
        if variable.role == "weight":
            tensors = [operator.weight for operator in operators]
        else:
            tensors = [tensor for operator in operators for tensor in trace.ties[operator.spec.activation_tie]]
        keys = [(Role(variable.role), tensor) for tensor in dict.fromkeys(tensors)]
        return [self._of_tensor[key] for key in keys if key in self._of_tensor]

    def _reached(self, variable: Variable) -> frozenset[str]:
        """Names of the slots whose results depend on a variable: its own, and all behind them in the graph."""
        own = set(self.slots_of(variable))
        behind: set[torch.fx.Node] = set()
        for node in self.network.graph.nodes:
            if node.target in own or not behind.isdisjoint(node.all_input_nodes):
                behind.add(node)
        return frozenset(str(node.target) for node in behind if node.op == "call_module") & self.slots.keys()


def _behind_layers(network: Network) -> list[Mean]:
    """Put a :class:`Mean` behind every layer whose bias can be corrected."""
    attach_biases(network)
    nodes = {node.name: node for node in network.graph.nodes}
    means = []
    for index, operator in enumerate(network.trace.operators):
        node = nodes[operator.node]
        if own_bias(network, node) is None:
            continue
        means.append(Mean(channel_axis(node)))
        target = f"means.{index}"
        network.add_submodule(target, means[-1])
        with network.graph.inserting_after(node):
            behind = network.graph.call_module(target, (node,))
        node.replace_all_uses_with(behind, delete_user_cb=lambda user, behind=behind: user is not behind)
    network.recompile()
    return means


def _quantized(quantizer: TensorQuantizer, x: Tensor) -> Tensor:
    """``quantizer(x)``; of an even grid in plain arithmetic: on a CPU a fifth of the time of PyTorch's kernels."""
    if not isinstance(quantizer, Quantizer):
        return quantizer(x)
    grid, integers = quantizer.qparams(), quantizer.integers(x)
    steps = integers.sub_(expand(grid.zero_point, grid.axis, x.ndim)).to(grid.scale.dtype)
    return steps.mul_(expand(grid.scale, grid.axis, x.ndim))


def _quantizers_wanted(space: SearchSpace) -> Policy:
    """A policy, legal or not, that puts a quantizer on every tensor which some policy of the space quantizes."""
    bits: dict[str, dict[str, int]] = {name: {} for name in space.names}
    for variable in space.decisions:
        wanted = max((b for b in variable.choices if b not in OFF_BITS), default=variable.choices[-1])
        for name in variable.layers:
            bits[name][variable.role] = wanted
    return Policy.of({name: (of["weight"], of["activation"]) for name, of in bits.items()})
