"""Fit what a roofline leaves open to measurements: the shares of its peaks that kernels reach, and their start."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.formulas.roofline import Roofline
from mobo_mpq.objectives.latency import LatencyModel
from mobo_mpq.objectives.profiles.records import Row

Floats = NDArray[np.float64]

FOLDS = 5
FEWEST = 3
"""Rows of a pair, and of its depthwise layers, that a number is fitted to."""

_OUTLIER = 0.2
"""Residuals of the logarithm beyond this count less and less: a kernel of another kind must not bend the rest."""

_PULL = 1e-3
"""Towards what the target says: it decides where no row tells, and is too weak to matter elsewhere."""

_STARTS = (0.05, 0.2, 0.8)
"""Shares of the peak bandwidth that fits start from: the corner of a roofline has local optima on both sides."""

_LOWEST_OVERHEAD_S = 1e-9


@dataclass(frozen=True)
class Errors:
    """How far predictions are from measurements.

    Attributes:
        mean: mean absolute error, relative to the measurement.
        median: median of the same.
        worst: largest of the same.
        spearman: rank correlation.
    """

    mean: float
    median: float
    worst: float
    spearman: float

    @classmethod
    def of(cls, predicted: Floats, measured: Floats) -> Errors:
        """Compare two vectors of one length."""
        off = np.abs(predicted / measured - 1)
        varies = len(measured) > 1 and np.ptp(measured) > 0 and np.ptp(predicted) > 0
        rank = float(spearmanr(predicted, measured).statistic) if varies else math.nan
        return cls(float(off.mean()), float(np.median(off)), float(off.max()), rank)


@dataclass(frozen=True)
class Calibration:
    """A fitted roofline, and how well it predicts.

    Attributes:
        formula: fitted.
        numbers: field of the formula -> fitted value, as ``pairs.8/8.efficiency``.
        rows: that were used.
        fitted: errors on those rows.
        held_out: errors on rows that the fit had not seen, by cross-validation.
        folds: of the cross-validation.
        before: errors of the target as it was.
    """

    formula: Roofline
    numbers: Mapping[str, float]
    rows: int
    fitted: Errors
    held_out: Errors
    folds: int
    before: Errors


@dataclass(frozen=True)
class _Number:
    """One unknown, as its logarithm."""

    path: str
    start: float
    lower: float
    upper: float


def calibrate(target: HardwareTarget, rows: Sequence[Row], layers: Sequence[LayerSpec] = ()) -> Calibration:
    """Fit a roofline's efficiencies, bandwidth and overhead to measured layers.

    Least squares on the logarithm of the latency, with a loss (soft L1) that outliers bend little. Per pair of bits an
    efficiency, and where at least three depthwise rows tell it, what these layers reach; one bandwidth efficiency and
    one overhead, but for pairs that have their own. What the rows do not determine stays as the target has it; pairs
    that no row has take the (geometric) mean efficiency of the others.

    Args:
        target: its latency model is a roofline.
        rows: with shapes, or with names of ``layers``; of any batch.
        layers: of a network, for rows that have no shape.

    Raises:
        InputError: another latency model, a row without a shape, pairs or kinds that the target has not, too few rows,
            or rows that are faster than the peaks allow.
    """
    formula = _roofline(target)
    specs = _specs(rows, layers)
    _check(target, formula, rows, specs)
    numbers = _unknowns(formula, rows, specs)
    measured = np.array([row.latency_s for row in rows])
    terms = _Terms.of(formula, rows, specs)
    _check_peaks(target, formula, terms, measured)
    solution = _fit(formula, numbers, terms, measured)
    folds = min(FOLDS, len(rows))
    fold = _folds(rows, folds)
    held_out = np.empty_like(measured)
    for k in range(folds):
        inside = fold != k
        part = _fit(formula, numbers, terms.only(inside), measured[inside])
        held_out[~inside] = terms.only(~inside).seconds(formula, numbers, part)
    start = np.array([number.start for number in numbers])
    return Calibration(
        _with_means(_with(formula, numbers, solution), set(terms.pairs)),
        {number.path: float(np.exp(value)) for number, value in zip(numbers, solution, strict=True)},
        len(rows),
        Errors.of(terms.seconds(formula, numbers, solution), measured),
        Errors.of(held_out, measured),
        folds,
        Errors.of(terms.seconds(formula, numbers, start), measured),
    )


def _roofline(target: HardwareTarget) -> Roofline:
    model = target.latency
    if not (isinstance(model, LatencyModel) and isinstance(model.formula, Roofline)):
        raise InputError(
            f"target '{target.name}' has no roofline, so that there is nothing to fit; give a target whose latency "
            "model is 'roofline', such as t4 or a100"
        )
    return model.formula


def _specs(rows: Sequence[Row], layers: Sequence[LayerSpec]) -> list[LayerSpec]:
    known = {layer.name: layer for layer in layers}
    specs = []
    for row in rows:
        spec = known.get(row.layer) or (row.shape.layer(row.layer) if row.shape else None)
        if spec is None:
            raise InputError(
                f"line {row.line} of the table has layer '{row.layer}' without a shape; add the columns op, cin, cout, "
                "kh, kw, stride, groups, h_out and w_out, or give --task"
            )
        specs.append(spec)
    return specs


def _check(target: HardwareTarget, formula: Roofline, rows: Sequence[Row], specs: Sequence[LayerSpec]) -> None:
    for row, spec in zip(rows, specs, strict=True):
        if spec.kind not in formula.kinds or not formula.covers(spec.kind, row.bits):
            raise InputError(
                f"line {row.line} of the table has {row.bits.weight} weight and {row.bits.activation} activation bits "
                f"for a layer of kind '{spec.kind}', which target '{target.name}' cannot price; it covers "
                f"{formula.coverage}: remove those rows, or take another target"
            )
    counts = {bits: sum(row.bits == bits for row in rows) for bits in dict.fromkeys(row.bits for row in rows)}
    needed = len(_unknowns(formula, rows, specs)) + 1
    few = [f"{count} of {bits.weight}/{bits.activation}" for bits, count in counts.items() if count < FEWEST]
    if few or len(rows) < needed:
        raise InputError(
            f"{len(rows)} rows are too few{' (' + ', '.join(few) + ')' if few else ''}; expected at least {needed} in "
            f"all, and {FEWEST} of each pair of bits, of layers that differ in size"
        )


def _unknowns(formula: Roofline, rows: Sequence[Row], specs: Sequence[LayerSpec]) -> list[_Number]:
    numbers: list[_Number] = []
    sharing: list[Row] = []
    for bits in dict.fromkeys(row.bits for row in rows):
        key, pair = f"pairs.{bits.weight}/{bits.activation}", formula.rates(bits)
        own = [row for row in rows if row.bits == bits]
        deep = sum(s.kind is OpKind.DEPTHWISE for r, s in zip(rows, specs, strict=True) if r.bits == bits)
        if deep < len(own) or pair.depthwise_macs_per_s is None and deep < FEWEST:
            numbers.append(_Number(f"{key}.efficiency", math.log(pair.efficiency), math.log(1e-6), 0.0))
        if deep >= FEWEST:
            rate = pair.depthwise_macs_per_s or pair.macs_per_s * pair.efficiency
            least, most = pair.macs_per_s * 1e-6, pair.macs_per_s
            start = math.log(min(rate, most))
            numbers.append(_Number(f"{key}.depthwise_macs_per_s", start, math.log(least), math.log(most)))
        if pair.overhead_s is None:
            sharing += own
        else:
            numbers.append(_overhead(f"{key}.overhead_s", pair.overhead_s, own))
    if sharing:
        numbers.append(_overhead("overhead_s", formula.overhead_s, sharing))
    bandwidth = math.log(formula.bandwidth_efficiency)
    return [*numbers, _Number("bandwidth_efficiency", bandwidth, math.log(1e-4), 0.0)]


def _overhead(path: str, value: float, rows: Sequence[Row]) -> _Number:
    most = math.log(max(min(row.latency_s for row in rows), 2 * _LOWEST_OVERHEAD_S))
    start = math.log(max(value, _LOWEST_OVERHEAD_S))
    return _Number(path, min(start, most), math.log(_LOWEST_OVERHEAD_S), most)


@dataclass(frozen=True)
class _Terms:
    """What the rows' layers compute and move, as columns of n values."""

    pairs: list[str]
    macs: Floats
    moved: Floats
    deep: NDArray[np.bool_]

    @classmethod
    def of(cls, formula: Roofline, rows: Sequence[Row], specs: Sequence[LayerSpec]) -> _Terms:
        both = list(zip(rows, specs, strict=True))
        return cls(
            [f"{row.bits.weight}/{row.bits.activation}" for row in rows],
            np.array([row.batch * spec.macs for row, spec in both], dtype=np.float64),
            np.array([formula.moved_bytes(spec, row.bits, row.batch) for row, spec in both]),
            np.array([spec.kind is OpKind.DEPTHWISE for spec in specs]),
        )

    def only(self, mask: NDArray[np.bool_]) -> _Terms:
        """Some of the rows."""
        pairs = [pair for pair, keep in zip(self.pairs, mask, strict=True) if keep]
        return _Terms(pairs, self.macs[mask], self.moved[mask], self.deep[mask])

    def seconds(self, formula: Roofline, numbers: Sequence[_Number], solution: Floats) -> Floats:
        """What the roofline says with these numbers: :meth:`Roofline.seconds` for all rows at once."""
        fitted = _with(formula, numbers, solution)
        rates, bandwidths, overheads = (np.empty(len(self.pairs)) for _ in range(3))
        for name, pair in fitted.pairs.items():
            own = np.array([other == name for other in self.pairs])
            rate = pair.macs_per_s * pair.efficiency
            rates[own] = rate
            rates[own & self.deep] = rate if pair.depthwise_macs_per_s is None else pair.depthwise_macs_per_s
            bandwidths[own] = fitted.bytes_per_s if pair.bytes_per_s is None else pair.bytes_per_s
            overheads[own] = fitted.overhead_s if pair.overhead_s is None else pair.overhead_s
        compute, memory = self.macs / rates, self.moved / (bandwidths * fitted.bandwidth_efficiency)
        busy = np.maximum(compute, memory) if fitted.combine == "max" else compute + memory
        return np.asarray(overheads + busy)


def _with(formula: Roofline, numbers: Sequence[_Number], solution: Iterable[float]) -> Roofline:
    """The formula with other numbers."""
    pairs, own = dict(formula.pairs), {}
    for number, value in zip(numbers, solution, strict=True):
        *key, field = number.path.split(".")
        if key:
            pairs[key[1]] = pairs[key[1]].model_copy(update={field: float(np.exp(value))})
        else:
            own[field] = float(np.exp(value))
    return formula.model_copy(update={"pairs": pairs, **own})


def _fit(formula: Roofline, numbers: Sequence[_Number], terms: _Terms, measured: Floats) -> Floats:
    """Logarithms of the numbers."""
    said = np.array([number.start for number in numbers])
    lower, upper = (np.array([getattr(number, side) for number in numbers]) for side in ("lower", "upper"))
    span = np.maximum(upper - lower, 1e-9)

    def residuals(values: Floats) -> Floats:
        off = np.log(terms.seconds(formula, numbers, values) / measured)
        return np.concatenate([off, _PULL * (values - said)])

    best = None
    for share in (None, *_STARTS):
        start = said if share is None else _start(formula, numbers, terms, measured, share)
        inside = np.clip(start, lower + 1e-6 * span, upper - 1e-6 * span)
        found = least_squares(residuals, inside, bounds=(lower, upper), loss="soft_l1", f_scale=_OUTLIER)
        best = found if best is None or found.cost < best.cost else best
    assert best is not None
    return np.asarray(best.x)


def _start(formula: Roofline, numbers: Sequence[_Number], terms: _Terms, measured: Floats, share: float) -> Floats:
    """As if every layer were limited by what it computes, at this share of the peak bandwidth."""
    values = []
    for number in numbers:
        key = number.path.split(".")
        value = number.start
        if number.path == "bandwidth_efficiency":
            value = math.log(share)
        elif key[-1] == "overhead_s":
            value = number.upper - math.log(4)
        else:
            own = np.array([pair == key[1] for pair in terms.pairs]) & (terms.deep == key[-1].startswith("depthwise"))
            if own.any():
                reached = float(np.median(terms.macs[own] / measured[own]))
                peak = formula.pairs[key[1]].macs_per_s if key[-1] == "efficiency" else 1.0
                value = math.log(reached / peak)
        values.append(value)
    return np.array(values)


def _with_means(formula: Roofline, measured: set[str]) -> Roofline:
    """Pairs that were not measured reach what the others do: the peak would make them the fastest of all."""
    mean = float(np.exp(np.mean([np.log(formula.pairs[pair].efficiency) for pair in sorted(measured)])))
    pairs = {
        name: pair if name in measured else pair.model_copy(update={"efficiency": mean})
        for name, pair in formula.pairs.items()
    }
    return formula.model_copy(update={"pairs": pairs})


def _check_peaks(target: HardwareTarget, formula: Roofline, terms: _Terms, measured: Floats) -> None:
    peaks = np.array([formula.pairs[pair].macs_per_s for pair in terms.pairs])
    faster = int((terms.macs / peaks > measured).sum())
    if faster > len(measured) / 2:
        raise InputError(
            f"{faster} of {len(measured)} rows are faster than the peaks of target '{target.name}' allow; check the "
            "unit of the latencies and the batch, or raise macs_per_s in a document of your own"
        )


def _folds(rows: Sequence[Row], folds: int) -> NDArray[np.intp]:
    """Fold of each row: by pair of bits, then by latency, dealt out in turn, so that every fold has small and large."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].bits, rows[i].latency_s, rows[i].layer))
    fold = np.empty(len(rows), dtype=np.intp)
    fold[order] = np.arange(len(rows)) % folds
    return fold


def calibrated_document(raw: Mapping[str, Any], calibration: Calibration, *, name: str, table: str) -> dict[str, Any]:
    """The target's document with the fitted numbers, whose sources say how they came about.

    Args:
        raw: plain content of the target's document.
        calibration: of that target.
        name: of the new one.
        table: that the numbers were fitted to.
    """
    document = copy.deepcopy(dict(raw))
    errors = calibration.held_out
    document["name"] = name
    document["description"] = f"{raw['description']}; calibrated on {calibration.rows} rows of {table}"
    said = (
        f"measured: fitted to {calibration.rows} rows of {table}; cross-validated in {calibration.folds} folds, the "
        f"mean absolute error is {100 * errors.mean:.1f} %, the median {100 * errors.median:.1f} %"
    )
    latency = document["latency"]
    for path, value in calibration.numbers.items():
        *key, field = path.split(".")
        (latency["pairs"][key[1]] if key else latency)[field] = value
        document["sources"][f"latency.{path}"] = said
    for pair, rates in calibration.formula.pairs.items():
        if not any(path.startswith(f"pairs.{pair}.") for path in calibration.numbers):
            latency["pairs"][pair]["efficiency"] = rates.efficiency
            document["sources"][f"latency.pairs.{pair}.efficiency"] = "assumed: the mean of the fitted pairs"
    return document
