"""ONNX files in the quantize-dequantize form, which runtimes fuse into integer kernels."""

from __future__ import annotations

import contextlib
import copy
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

import mobo_mpq
from mobo_mpq.dataflow import aten, op, value
from mobo_mpq.errors import InputError
from mobo_mpq.export.carriers import ActivationCarrier, WeightCarrier
from mobo_mpq.export.kernels import name_after_layers, suit_kernels
from mobo_mpq.export.policy_json import PolicyDocument
from mobo_mpq.export.wide import widen
from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Example, call
from mobo_mpq.quant.base import Quantizer, Role, TensorQuantizer
from mobo_mpq.quant.multipoint import MultipointQuantizer, points_of
from mobo_mpq.quant.transform import QuantizedNetwork, quantizers
from mobo_mpq.quiet import quiet
from mobo_mpq.shapes import symbol

OPSET = 21
"""Of the operators; ONNX Runtime loads it from version 1.18 on."""

IR_VERSION = 10
"""Of the file format; the one that came with this operator set."""

_CHATTY = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")


def export_onnx(
    network: QuantizedNetwork, example: Example, path: str | Path, *, model_digest: str = "", target: str = ""
) -> None:
    """Write a quantized network as an ONNX file that takes any batch size, and other sizes where the network does.

    Outputs with names of their own, such as ``logits``, keep them.

    Weights are stored as signed 8-bit integers with a scale per channel, and the product of both is the fake-quantized
    weight bit for bit: by DequantizeLinear where ONNX Runtime has an integer kernel for the layer between its
    neighbours, else by operators that it folds when it loads the file. Activations pass through QuantizeLinear and
    DequantizeLinear on unsigned 8-bit integers, with a Min in front where the grid has fewer bits. Biases, and tensors
    of 16 or 32 bits, stay in float.

    ONNX Runtime computes what the network computes up to the rounding of float sums, but for one thing: between
    activations of 8 bits it fuses convolutions into integer kernels, whose biases are integers. Next to fewer bits,
    where that would be felt, and for weights of 32 bits they stay in float.

    Layers whose channels have several points (:mod:`mobo_mpq.quant.multipoint`) are wider, and end in the additions
    that make them as wide as they were.

    Nodes of a layer are called ``LAYER/OPERATOR``, which is what profiles of the file say.

    The file's ``metadata_props`` say where it comes from: ``mobo_mpq.policy`` holds the text of the policy file,
    ``mobo_mpq.model_digest`` and ``mobo_mpq.version`` the digest and the version of this package.

    Args:
        network: calibrated.
        example: inputs of any batch size; the first axis of the first tensor is the batch.
        path: of the file.
        model_digest: of the model that was quantized.
        target: name of the device that the policy was found for.

    Raises:
        InputError: when a quantizer has seen no data yet, or the file cannot be written.
    """
    document = PolicyDocument(network.policy, model_digest, target, points_of(network))
    program = _program(network, example)
    suit_kernels(program.model)
    name_after_layers(program.model, network.trace.operators)
    program.model.ir_version = IR_VERSION
    program.model.producer_name, program.model.producer_version = "mobo-mpq", mobo_mpq.__version__
    program.model.metadata_props["mobo_mpq.policy"] = document.to_json()
    program.model.metadata_props["mobo_mpq.model_digest"] = model_digest
    program.model.metadata_props["mobo_mpq.version"] = mobo_mpq.__version__
    try:
        program.save(str(path))
    except OSError as error:
        raise InputError(f"ONNX file '{path}' cannot be written ({error}); choose another folder") from None


def lower(network: QuantizedNetwork) -> GraphModule:
    """A copy on the CPU in which carriers stand for the quantizers.

    Raises:
        InputError: when a quantizer has seen no data yet, or its levels are no even grid.
    """
    lowered = copy.deepcopy(network).cpu()
    for name, quantizer in quantizers(lowered).items():
        _check_calibrated(quantizer)
        if isinstance(quantizer, MultipointQuantizer):
            widen(lowered, name, quantizer)
        else:
            lowered.set_submodule(name, _carrier(lowered, quantizer))
    for node in lowered.graph.nodes:
        if op(node) is aten.view:  # carriers are dense; what follows a transposition may be no view of them any more
            node.target = aten.reshape.default
    lowered.recompile()
    return lowered


def _check_calibrated(quantizer: TensorQuantizer) -> None:
    site = quantizer.site
    assert site is not None  # apply_policy gives every quantizer its site
    if not quantizer.calibrated:
        raise InputError(
            f"the {site.role} quantizer of '{site.tensor}' has seen no data yet; run calibrate(network, batches) "
            "before the export"
        )


def _carrier(network: GraphModule, quantizer: TensorQuantizer) -> ActivationCarrier | WeightCarrier:
    site = quantizer.site
    assert site is not None  # apply_policy gives every quantizer its site
    if not isinstance(quantizer, Quantizer):
        raise InputError(
            f"the levels of the {site.role} quantizer of '{site.tensor}' are no even grid, and ONNX knows no other; "
            "choose '--format policy', or a recipe with even grids such as 'qat'"
        )
    if site.role is Role.ACTIVATION:
        return ActivationCarrier(quantizer.qparams())
    return WeightCarrier(quantizer.qparams(), tensor_of(network, site.tensor))


def _program(network: QuantizedNetwork, example: Example) -> torch.onnx.ONNXProgram:
    lowered, (args, kwargs) = lower(network), _arguments(network, example)
    inputs = kwargs or args

    def export(sizes: Any) -> torch.onnx.ONNXProgram:
        program = torch.onnx.export(
            lowered,
            args,
            kwargs=kwargs,
            output_names=names,
            dynamo=True,
            dynamic_shapes=sizes,
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None  # None comes from dynamo=False alone
        return program

    with _muted(), torch.no_grad():
        names = _output_names(lowered, call(lowered, inputs))
        batch_alone, every = _free_axes(inputs), _free_axes(inputs, _input_nodes(network, args, kwargs))
        try:
            return export(every)
        except Exception:  # dozens of torch's own: what one tracer leaves free, another may fix
            if every == batch_alone:
                raise
            return export(batch_alone)


def _arguments(network: QuantizedNetwork, example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments; samples come twice, since a batch of 1 would be fixed."""
    inputs = tuple(example) if isinstance(example, list | tuple) else example
    if isinstance(inputs, dict):  # in the network's order, by which axes are matched, and without labels
        inputs = {name: inputs[name] for name in network.example[1] or inputs if name in inputs}
    elif not isinstance(inputs, tuple):
        inputs = (inputs,)
    batch = next(leaf.shape[0] for leaf in pytree.tree_leaves(inputs) if _has_batch(leaf))
    doubled = pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if _has_batch(leaf) and leaf.shape[0] == batch else leaf, inputs
    )
    return ((), doubled) if isinstance(doubled, dict) else (doubled, {})


def _input_nodes(network: QuantizedNetwork, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Node]:
    """The network's inputs, one for each leaf of its arguments; none when it was captured with another structure."""
    nodes = list(network.graph.find_nodes(op="placeholder"))
    structure = pytree.tree_structure((args, kwargs))
    return nodes if structure == pytree.tree_structure(network.example) and structure.num_leaves == len(nodes) else []


def _free_axes(inputs: Any, nodes: Sequence[Node] = ()) -> Any:
    """Names of free axes by number, for each leaf: that of the batch, and all that are free in ``nodes``."""
    leaves, structure = pytree.tree_flatten(inputs)
    batch = next(leaf.shape[0] for leaf in leaves if _has_batch(leaf))
    names: dict[Any, str] = {}
    found: list[dict[int, str] | None] = []
    for leaf, node in itertools.zip_longest(leaves, nodes):
        axes = {0: "batch"} if _has_batch(leaf) and leaf.shape[0] == batch else {}
        if node is not None and isinstance(leaf, Tensor):
            for axis, size in enumerate(value(node).shape):
                free = axis not in axes and symbol(size) is not None
                if free and leaf.shape[axis] > 1:  # torch takes sizes of 1 for constants
                    axes[axis] = names.setdefault(symbol(size), f"size_{len(names) + 1}")
        found.append(axes or None)
    return pytree.tree_unflatten(found, structure)


def _output_names(network: GraphModule, outputs: Any) -> list[str] | None:
    """Names of a mapping of tensors, unless inputs have taken them."""
    taken = {node.target for node in network.graph.find_nodes(op="placeholder")}
    if not isinstance(outputs, Mapping) or not all(isinstance(leaf, Tensor) for leaf in outputs.values()):
        return None
    return None if taken & outputs.keys() else [str(name) for name in outputs]


def _has_batch(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Without the exporter's chatter: packages that it could use, and deprecations among its own parts."""
    with quiet(_CHATTY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
