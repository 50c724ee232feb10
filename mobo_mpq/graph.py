"""Networks as graphs: captured once by ``torch.export``, then read, quantized, trained and exported."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import io
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from mobo_mpq.dataflow import aten, op, value
from mobo_mpq.digests import add_tensor
from mobo_mpq.errors import InputError
from mobo_mpq.folding import Normal, fold_batch_norms
from mobo_mpq.layers import LayerSpec
from mobo_mpq.operators import Trace, moved_to, read_operators
from mobo_mpq.quiet import quiet
from mobo_mpq.shapes import symbol
from mobo_mpq.unquantized import Unquantized

Example = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]
"""Inputs of a model: a tensor, positional arguments, or keyword arguments."""

LABELS = "labels"
"""Keyword of the target in a mapping; networks need not take it."""

_CHATTY = ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export", "torch._dynamo")
_MODULES = "output_modules"
_OWN = frozenset({"trace", "layers", "unquantized", "normals", "example", "twin", "policy"})
"""What networks, also quantized ones, have of their own; what has these names in a model would be hidden."""


def call(network: nn.Module, inputs: Example) -> Any:
    """Run a network on a tensor, a tuple of positional or a dict of keyword arguments."""
    args, kwargs = split_inputs(inputs)
    return network(*args, **kwargs)


def capture(model: nn.Module, example: Example) -> ExportedProgram:
    """The graph of ``model`` in eval mode, for any batch size.

    Args:
        model: any module; its mode and its configuration are left as they were.
        example: inputs of any batch size; the first axis of the first tensor is the batch.

    Raises:
        InputError: when the model does not run on the example, cannot be traced, or works for one batch size only.
    """
    args, kwargs = _two_samples(example)
    sizes = pytree.tree_map(lambda leaf: _any_size(leaf), (args, kwargs))
    name = type(model).__name__
    with _as_for_inference(model), _muted(), torch.no_grad():
        try:
            program = torch.export.export(
                model, args, kwargs=kwargs, strict=False, dynamic_shapes=sizes[1] if kwargs else sizes[0]
            ).run_decompositions({})
        except Exception as error:  # whatever a user's forward raises, and dozens of types of torch's own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"model {name} cannot be captured as a graph: {reason}; forward has to run on the example and its "
                "control flow must not depend on the values of tensors"
            ) from error
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs and _is_tensor(value(node)):
            if symbol(value(node).shape[0]) is None:
                raise InputError(
                    f"model {name} works for one batch size only: its input '{node.name}' became fixed at "
                    f"{tuple(value(node).shape)}; take sizes from x.shape in forward instead of writing numbers"
                )
            break
    return program


def save_program(program: ExportedProgram) -> bytes:
    """A captured program as bytes for a worker; nothing of the user's code is pickled."""
    modules = sorted(_type_modules(program.call_spec.out_spec) - {"builtins", "collections", "typing"})
    buffer = io.BytesIO()
    with _muted():
        torch.export.save(program, buffer, extra_files={_MODULES: "\n".join(modules)})
    return buffer.getvalue()


def load_program(data: bytes) -> ExportedProgram:
    """The inverse of :func:`save_program`.

    Raises:
        InputError: when ``data`` is something else, or the module that defines the model's output type is missing.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = [name for name in archive.namelist() if name.endswith(f"/{_MODULES}")]
            modules = archive.read(listed[0]).decode().split() if listed else []
        for module in modules:  # defining an output class registers it with torch
            importlib.import_module(module)
        with _muted():
            return torch.export.load(io.BytesIO(data))
    except (zipfile.BadZipFile, ImportError, RuntimeError) as error:
        raise InputError(
            f"the saved program cannot be read ({str(error).splitlines()[0]}); expected bytes of save_program(), and "
            "the packages that the model comes from"
        ) from error


class Network(GraphModule):
    """A captured model, in float: called like it, trained like it, with batch norms folded.

    Parameters keep their qualified names, but for those that begin with the name of an attribute below, such as
    ``layers``: they get an underscore there. Layers are called as in the model. Modes do not change what is computed:
    it is always that of eval mode.
    A keyword ``labels`` that the model was captured without is ignored, so that ``network(**batch)`` works.
    Make one by :meth:`from_program` or :meth:`from_model`.
    """

    @classmethod
    def from_program(cls, program: ExportedProgram) -> Self:
        """A network with parameters of its own."""
        with _muted():
            module = program.module(check_guards=False)
        if not isinstance(module, GraphModule):
            raise TypeError(f"expected a GraphModule from torch.export, got {type(module).__name__}")
        for node in list(module.graph.nodes):
            if op(node) in {aten._assert_tensor_metadata, aten._assert_scalar}:
                module.graph.erase_node(node)  # they would forbid half precision and other sizes
        module.graph.eliminate_dead_code()
        normals = fold_batch_norms(module)
        trace = read_operators(module, _count_parameters(program))
        renamed = _make_room(module)
        network = copy.deepcopy(cls(module, module.graph))
        network.meta["trace"] = replace(trace, operators=tuple(one.moved_to(renamed) for one in trace.operators))
        network.meta["example"] = program.example_inputs
        network.meta["normals"] = normals
        return network.train(False)

    @classmethod
    def from_model(cls, model: nn.Module, example: Example) -> Self:
        """Capture ``model``; see :func:`capture`."""
        return cls.from_program(capture(model, example))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        if LABELS in kwargs and all(node.target != LABELS for node in self.graph.find_nodes(op="placeholder")):
            del kwargs[LABELS]
        return super().__call__(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.meta)] = self.meta  # immutable or only read: the copy shares what it holds
        with _muted():
            return cast(Self, super().__deepcopy__(memo))

    def twin(self) -> Network:
        """A second graph, to be changed, over this network's own parameters and modules."""
        with _muted():
            twin = Network(self, copy.deepcopy(self.graph))
        twin.meta = self.meta
        return twin

    @property
    def trace(self) -> Trace:
        """Layers, ties, and what stays in float."""
        return self.meta["trace"]

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Quantizable operators, in the order in which they run."""
        return self.trace.layers

    @property
    def unquantized(self) -> tuple[Unquantized, ...]:
        """Operators that stay in float."""
        return self.trace.unquantized

    @property
    def normals(self) -> dict[str, Normal]:
        """Distributions of layers' outputs that their batch norms told, by the name of the layer's node."""
        return self.meta["normals"]

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments that the model was captured with: a batch of 2."""
        return self.meta["example"]


def _make_room(module: GraphModule) -> dict[str, str]:
    """Give another name to what networks would hide by attributes of their own, such as a list called ``layers``.

    Returns:
        First parts of qualified names: as they were -> as they are.
    """
    renamed: dict[str, str] = {}
    holders: tuple[dict[str, Any], ...] = (module._modules, module._parameters, module._buffers)
    for held in holders:
        for name in [one for one in held if one in _OWN]:
            renamed[name] = f"{name}_"
            while hasattr(module, renamed[name]):
                renamed[name] += "_"
            held[renamed[name]] = held.pop(name)
    for node in module.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            node.target = moved_to(str(node.target), renamed)
    return renamed


def model_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            add_tensor(digest, tensor, name)
    return digest.hexdigest()


def split_inputs(inputs: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call."""
    if isinstance(inputs, dict):
        return (), inputs
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    raise InputError(
        f"inputs of a model are a {type(inputs).__name__}; expected a tensor, a tuple of positional arguments or a "
        "dict of keyword arguments"
    )


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0


def _two_samples(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example with a batch of 2: sizes 0 and 1 would become constants of the graph."""
    inputs = split_inputs(example)
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if _is_tensor(leaf)]
    if not tensors or not tensors[0].shape[0]:
        raise InputError("the example holds no samples; expected at least one tensor whose first axis is the batch")
    batch = tensors[0].shape[0]

    def resize(leaf: Any) -> Any:
        if not _is_tensor(leaf) or leaf.shape[0] != batch:
            return leaf
        return torch.cat([leaf[:1], leaf[-1:]]).detach()

    return pytree.tree_map(resize, inputs)


def _any_size(leaf: Any) -> dict[int, Any] | None:
    return {axis: Dim.AUTO for axis in range(leaf.ndim)} if _is_tensor(leaf) else None


def _count_parameters(program: ExportedProgram) -> int:
    unique = {id(p): p.numel() for p in program.parameters()}
    return sum(unique.values())


def _type_modules(spec: Any) -> set[str]:
    """Names of the modules that define the containers of a tree of outputs."""
    own = {spec.type.__module__} if isinstance(spec.type, type) else set()
    return own.union(*(_type_modules(child) for child in spec.children()))


@contextlib.contextmanager
def _as_for_inference(model: nn.Module) -> Iterator[None]:
    """Eval mode, no cache of keys and values, no fused encoder layers; everything is put back."""
    modes = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        if cached is not None and config is not None:
            config.use_cache = False
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        if cached is not None and config is not None:
            config.use_cache = cached
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Without torch.export's chatter: sizes of 1 that become constants, and warnings about its own internals."""
    with quiet(_CHATTY), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
        warnings.filterwarnings("ignore", "The tensor attributes? self\\..*_flat_weights", UserWarning)  # of nn.LSTM
        yield
