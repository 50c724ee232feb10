"""The fine-tune: short, on a cosine schedule, and loud when it diverges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mobo_mpq.errors import TrainingDiverged
from mobo_mpq.graph import Network, call
from mobo_mpq.memory import FLOAT_BITS
from mobo_mpq.options import check_each
from mobo_mpq.quant.transform import QuantizedNetwork, quantizers
from mobo_mpq.training.data import Inputs, accepted_by, device_of, logits_of, split_batch, to_device
from mobo_mpq.training.half.scaling import AUTO, Arithmetic, arithmetic_of, check_half
from mobo_mpq.training.losses import Loss, class_axis, distillation
from mobo_mpq.training.margin import FeatureRecorder, with_margin
from mobo_mpq.training.probe import Probe, probed_after

SMALLEST_SIZE = 1e-3
"""Root mean square at which a parameter's learning rate stops shrinking: epsilon_2 of Adafactor."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a fine-tune is done.

    Attributes:
        lr: learning rate of weights and biases at its peak, relative to the root mean square of each of them.
        scale_lr: learning rate of the quantizers' step sizes, relative likewise.
        warmup: share of the steps over which the rates rise; the rest is a cosine down to 0.
        clip: largest norm of all gradients together; 0 leaves them.
        distill: weight of the distillation from the float network, 0 to 1; the task's loss gets the rest. Where the
            targets are no class indices there is nothing to distil, and the task's loss gets everything.
        temperature: of the distillation.
        margin: weight of the large margin between classes (see :mod:`mobo_mpq.training.margin`); 0 leaves it out.
        precision: of the arithmetic: "fp32", or "fp16" with parameters in float32.
        loss_scaling: in fp16: "adaptive", "dynamic", "static" or "none"; "auto" is adaptive there, and nothing in fp32.
        loss_scale: in fp16, unless its scaling is "none": what the loss is multiplied by, at first where that changes;
            a power of two; 0 is the scaling's own default.
        scale_interval: in fp16, steps after which adaptive scales are chosen anew; other scalings leave it at 1.
    """

    lr: float = 0.01
    scale_lr: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    distill: float = 0.9
    temperature: float = 2.0
    margin: float = 0.0
    precision: str = "fp32"
    loss_scaling: str = AUTO
    loss_scale: float = 0.0
    scale_interval: float = 1.0

    def __post_init__(self) -> None:
        legal = {
            "lr": (0.0 < self.lr < math.inf, "a number above 0"),
            "scale_lr": (0.0 <= self.scale_lr < math.inf, "0 or more"),
            "warmup": (0.0 <= self.warmup < 1.0, "0 or more, below 1"),
            "clip": (0.0 <= self.clip < math.inf, "0 or more"),
            "distill": (0.0 <= self.distill <= 1.0, "0 to 1"),
            "temperature": (0.0 < self.temperature < math.inf, "a number above 0"),
            "margin": (0.0 <= self.margin < math.inf, "0 or more"),
        }
        check_each(self, "the fine-tune", legal)
        check_half(self)


@dataclass(frozen=True, eq=False)
class Extras:
    """What learners add to a fine-tune.

    Attributes:
        rates: parameters, of the network or beside it, with their learning rates at the peak, which are absolute; their
            gradients are not clipped.
        penalty: from the loss of a batch, as a constant, to what is added to it.
        after_step: called with the number of steps done.
    """

    rates: Sequence[tuple[nn.Parameter, float]] = ()
    penalty: Callable[[Tensor], Tensor] | None = None
    after_step: Callable[[int], None] | None = None

    def added_to(self, loss: Tensor) -> Tensor:
        """The loss of a batch with the penalty."""
        return loss if self.penalty is None else loss + self.penalty(loss.detach())


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: a linear rise, then half a cosine (Loshchilov and Hutter 2017) that ends near 0.

    Args:
        step: 0 to ``steps - 1``.
        steps: of the whole schedule.
        warmup: share of the steps that rise.
    """
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / (steps - rise)))


def finetune(
    network: QuantizedNetwork,
    batches: Iterable[Any],
    loss: Loss,
    steps: int,
    settings: Settings,
    teacher: Network,
    probe: Probe | None = None,
    extras: Extras = Extras(),  # noqa: B008 - frozen
) -> Mapping[str, float]:
    """Train all parameters of ``network`` in place, by Adam (Kingma and Ba 2015).

    Args:
        network: calibrated.
        batches: as a loader yields them, ``steps`` of them or more.
        loss: of the network's output and the target.
        steps: length of the schedule.
        settings: rates and weights of the losses.
        teacher: the float network.
        probe: called once, after a quarter of the steps, if that is not the end; must leave network and generators as
            they were (see :func:`~mobo_mpq.training.probe.undisturbed`). What it raises ends the fine-tune.
        extras: of learners.

    Returns:
        In fp16, what is counted (see :class:`~mobo_mpq.training.half.scaling.Half`); in fp32 nothing.

    Raises:
        InputError: when there shall be a margin, and targets are not one class for each sample.
        TrainingDiverged: when the loss or its gradient is no longer finite, naming the step and the fewest bits; in
            fp16, when too many gradients overflow.
    """
    optimizer, schedule = _optimizer(network.requires_grad_(), steps, settings, extras)
    limits = _limits(optimizer, settings, extras)
    arithmetic, objective = _ways(network, loss, settings, teacher)
    device, early = device_of(network), probed_after(steps)
    for step, batch in zip(range(steps), batches, strict=False):
        inputs, target = split_batch(to_device(batch, device))
        value = extras.added_to(objective(inputs, target))
        norm = _gradients(arithmetic, value, optimizer, limits)
        if bool(torch.isfinite(value.detach() + norm)):
            optimizer.step()
            schedule.step()
            arithmetic.took()
        elif not arithmetic.skips(value.item()):
            raise TrainingDiverged(_advice(network, step, steps, value.item(), norm.item(), settings))
        if probe is not None and step + 1 == early:
            probe(network)
        if extras.after_step is not None:
            extras.after_step(step + 1)
    return arithmetic.finish()


def _limits(
    optimizer: torch.optim.Optimizer, settings: Settings, extras: Extras
) -> list[tuple[list[nn.Parameter], float]]:
    """Groups of parameters, and the largest norm of the gradients of each."""
    own = [parameter for parameter, _ in extras.rates]
    parameters = _without(own, (parameter for group in optimizer.param_groups for parameter in group["params"]))
    return [(parameters, settings.clip or math.inf), (own, math.inf)]


def _gradients(
    arithmetic: Arithmetic,
    value: Tensor,
    optimizer: torch.optim.Optimizer,
    limits: Iterable[tuple[list[nn.Parameter], float]],
) -> Tensor:
    """Give parameters their gradients, clip the norm of each group, and return the sum of the norms before that."""
    optimizer.zero_grad()
    arithmetic.backward(value, optimizer)
    norms = [nn.utils.clip_grad_norm_(parameters, limit) for parameters, limit in limits]
    return sum(norms[1:], start=norms[0])  # that of no parameters lies on the CPU: no stack


def _without(excluded: Iterable[nn.Parameter], parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    names = {id(parameter) for parameter in excluded}
    return [parameter for parameter in parameters if id(parameter) not in names]


def _ways(
    network: QuantizedNetwork, loss: Loss, settings: Settings, teacher: Network
) -> tuple[Arithmetic, Callable[[Inputs, Any], Tensor]]:
    """The way backwards, and the way to the loss, with a margin where there shall be one."""
    recorder = FeatureRecorder(network) if settings.margin else None
    arithmetic = arithmetic_of(network if recorder is None else recorder.network, settings)
    objective = _objective(arithmetic.network, loss, settings, teacher)
    return arithmetic, objective if recorder is None else with_margin(objective, settings.margin, recorder)


def _objective(network: Network, loss: Loss, settings: Settings, teacher: Network) -> Callable[[Inputs, Any], Tensor]:
    names, weight = set(network.example[1]), settings.distill

    def objective(inputs: Inputs, target: Any) -> Tensor:
        known = accepted_by(inputs, names)
        output = call(network, known)
        if weight == 0.0 or not isinstance(target, Tensor):
            return loss(output, target)
        logits = logits_of(output)
        axis = class_axis(logits, target)
        if axis is None:  # no classifier: nothing to soften
            return loss(output, target)
        with torch.no_grad():
            taught = logits_of(call(teacher, known))
        soft = weight * distillation(logits, taught, settings.temperature, axis)
        return soft if weight == 1.0 else soft + (1.0 - weight) * loss(output, target)

    return objective


def _optimizer(
    network: QuantizedNetwork, steps: int, settings: Settings, extras: Extras
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Adam with a rate for each parameter, relative to its size (Adafactor, Shazeer and Stern 2018, section 8).

    Folded convolutions and the projections of a transformer differ tenfold in size: one absolute rate suits one only.
    """
    scales = {id(parameter) for quantizer in quantizers(network).values() for parameter in quantizer.parameters()}
    groups = [{"params": [parameter], "lr": rate} for parameter, rate in extras.rates]
    for parameter in _without((parameter for parameter, _ in extras.rates), network.parameters()):
        rate = settings.scale_lr if id(parameter) in scales else settings.lr
        size = float(parameter.detach().square().mean().sqrt())
        groups.append({"params": [parameter], "lr": rate * max(size, SMALLEST_SIZE)})
    optimizer = torch.optim.Adam(groups, lr=settings.lr)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps, settings.warmup))


def _advice(network: QuantizedNetwork, step: int, steps: int, loss: float, norm: float, settings: Settings) -> str:
    name, bits = min(network.policy.items(), key=lambda item: item[1].weight + item[1].activation)
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient has norm {norm}"
    remedy = f"lower the option 'lr' (now {settings.lr:g})"
    if settings.precision == "fp16":  # no scale of the loss mends what overflows on the way to it
        what += f" in float16, where numbers beyond {torch.finfo(torch.float16).max:g} are infinite"
        remedy = f"train with --precision fp32; if it diverges there, too, {remedy}"
    if min(bits) < FLOAT_BITS:
        what += f"; the fewest bits are those of layer '{name}', W{bits.weight}A{bits.activation}"
        remedy += ", or give more bits"
    return f"the fine-tune diverged at step {step + 1} of {steps}: its {what}: {remedy}"
