"""Every tensor that a model computes with, wherever its layers keep it.

Checksums of named parameters are not enough: kernels read packed copies that lie in attributes, in closures of
functions, or in objects of a layer's quantisation method, and a reload may leave those as they were.
"""

from __future__ import annotations

import enum
import functools
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .model_layers import named_layers
from .tensor_memory import consists_of_others, has_memory, is_fake

_DEEPEST = 12
"""Steps from a layer to a tensor. Kernels keep theirs within six."""

_LONGEST = 10_000
"""Entries of a container. Longer ones are vocabularies and the like."""

_SCRATCH = re.compile(
    r"kv_?cache|work_?space|scratch|_buf(?:fer)?s?(?:_|$)|(?:^|_)(?:metadata|block_tables?|slot_mappings?)$"
)
"""Names of what an engine writes while it serves: it has no contents that belong to the weights. An attention backend
of vLLM's keeps the last request's metadata."""

_LEAVES = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    type,
    enum.Enum,
    torch.dtype,
    torch.device,
)
_LEAVES += (torch.Size, types.ModuleType, types.BuiltinFunctionType, property, re.Pattern)
_PLAIN = frozenset(_LEAVES)
"""Their own types, without those that derive from them."""

_FOREIGN = re.compile(
    r"(?:torch|triton|numpy|transformers|pydantic|logging|threading|_thread|weakref|asyncio|concurrent|zmq|ctypes)\b"
    # The engine's configuration leads to every layer once more, and the rest holds what belongs to requests.
    r"|vllm\.(?:config|distributed|compilation|forward_context|lora\.punica|multimodal|tokenizers|transformers_utils)\b"
    r"|vllm\.v1\.(?:core|engine|executor|worker)\b"
)
"""Modules whose objects hold nothing of a layer's."""

_OF_LAYERS = ("vllm.model_executor.", "vllm.v1.attention.")
"""Modules whose objects a layer has for itself: quantisation methods, kernels, attention backends. What others keep in a
tensor may be no weight: a oneDNN handler has the address there of what it frees."""


Probes = Mapping[str, Callable[[str, Any], "torch.Tensor | None"]]
"""By the name of a class: what stands for an object of it at a path, whose memory torch does not see."""

Standing = Callable[[], "torch.Tensor | None"]


@dataclass(frozen=True)
class Held:
    """A tensor in a dictionary or a list, where another may take its place."""

    path: str
    owner: Any
    key: Any
    tensor: torch.Tensor

    def replace(self, tensor: torch.Tensor) -> None:
        self.owner[self.key] = tensor


class LiveTensors:
    """Names to tensors, in an order and with names that are the same in every process that runs the same code.

    Parameters have their names in the model, `layers.0.mlp.up_proj.weight`; whatever else a layer holds has a colon
    after the layer's name, `lm_head:cpu_linear.packed_weight`. A tensor that is reached by several ways has the name
    by which it was found first, parameters before all others.
    """

    def __init__(self, model: torch.nn.Module, probes: Probes) -> None:
        self._by_name: dict[str, torch.Tensor | Standing] = {}
        self.held: list[Held] = []
        """What lies beside parameters and buffers where it may be replaced, each as often as it does."""
        self._probes = probes
        self._seen: set[Any] = set()
        # Keeps what was seen: another object could get its id.
        self._visited: list[Any] = []
        # What a parameter is asked would go through functions in Python, those of engines' own classes and that of torch's
        # default device: most of the time of a walk.
        with torch._C.DisableTorchFunction():
            self._walk(named_layers(model))

    @property
    def seen(self) -> dict[str, torch.Tensor]:
        """Without what stands for memory that torch does not see."""
        return {name: one for name, one in self._by_name.items() if isinstance(one, torch.Tensor)}

    @functools.cached_property
    def by_name(self) -> dict[str, torch.Tensor]:
        stands = {name: one if isinstance(one, torch.Tensor) else one() for name, one in self._by_name.items()}
        return {name: tensor for name, tensor in stands.items() if tensor is not None}

    @property
    def opaque(self) -> list[str]:
        """Names of what has weights in memory that torch does not see, and for which nothing can stand."""
        return [name for name in self._by_name if name not in self.by_name]

    def _walk(self, layers: list[tuple[str, torch.nn.Module]]) -> None:
        self._seen.update(id(layer) for _, layer in layers)
        for path, layer in layers:
            self._add_all(f"{path}." if path else "", layer._parameters)
        for path, layer in layers:
            self._add_all(f"{path}:", layer._buffers)
        for path, layer in layers:
            own = vars(layer)
            for name, value in list(own.items()):
                # Nearly all that a layer has is left out here.
                if type(value) not in _PLAIN and name not in _OF_MODULE:
                    self._visit_named(f"{path}:", name, value, 0, own, name)

    def _add_all(self, prefix: str, tensors: dict[str, torch.Tensor | None]) -> None:
        for name, tensor in tensors.items():
            if tensor is not None and not _is_scratch(name):
                self._add(prefix + name, tensor)

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        # A view of the same memory in another form is another tensor to a kernel.
        if is_fake(tensor):
            return
        if consists_of_others(type(tensor)):
            # It consists of others: packed weights and their scales.
            for inner in tensor.__tensor_flatten__()[0]:
                self._visit(f"{name}.{inner}", getattr(tensor, inner), 0)
            return
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        if tensor.numel() == 0:
            return
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place in self._seen:
            return
        self._seen.add(place)
        self._by_name[name] = tensor

    def _visit(self, path: str, value: Any, depth: int, owner: Any = None, key: Any = None) -> None:
        """`owner`, `key`: the dictionary or list that has it, and under what; None where nothing may be replaced."""
        if _is_leaf(type(value)):
            return
        if isinstance(value, torch.Tensor):
            if owner is not None and has_memory(value):
                self.held.append(Held(path, owner, key, value))
            self._add(path, value)
            return
        if id(value) in self._seen or depth > _DEEPEST:
            return
        self._seen.add(id(value))
        self._visited.append(value)
        probe = self._probes.get(type(value).__name__)
        if probe is not None:
            # When it is asked for: it takes longer than all the rest.
            self._by_name[path] = functools.partial(probe, path, value)
        elif isinstance(value, (dict, list, tuple)) and len(value) > _LONGEST:
            return
        elif isinstance(value, dict):
            for index, (name, entry) in enumerate(list(value.items())):
                self._visit_named(f"{path}.", name if isinstance(name, str) else f"[{index}]", entry, depth, value, name)
        elif isinstance(value, (list, tuple)):
            for index, entry in enumerate(value):
                self._visit(f"{path}[{index}]", entry, depth + 1, value if isinstance(value, list) else None, index)
        else:
            self._visit_members(f"{path}.", _members(value), depth)

    def _visit_members(self, prefix: str, members: Iterator[Member], depth: int) -> None:
        for name, value, owner in members:
            self._visit_named(prefix, name, value, depth, owner, name)

    def _visit_named(self, prefix: str, name: str, value: Any, depth: int, owner: Any, key: Any) -> None:
        # Most members are; what is asked of each is the time of a walk.
        if type(value) not in _PLAIN and not _is_scratch(name):
            self._visit(prefix + name, value, depth + 1, owner, key)


class Walks:
    """What models hold, looked up once until something has changed."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._found: dict[int, tuple[torch.nn.Module, LiveTensors]] = {}

    def of(self, model: torch.nn.Module) -> LiveTensors:
        if id(model) not in self._found:
            self._found[id(model)] = model, LiveTensors(model, self._probes)
        return self._found[id(model)][1]

    def changed(self) -> None:
        """Layers may hold other tensors since."""
        self._found.clear()


@functools.lru_cache(maxsize=4_096)
def _is_leaf(kind: type) -> bool:
    return issubclass(kind, _LEAVES)


@functools.lru_cache(maxsize=4_096)
def _is_foreign(module: str) -> bool:
    return _FOREIGN.match(module) is not None


@functools.lru_cache(maxsize=16_384)
def _is_scratch(name: str) -> bool:
    return _SCRATCH.search(name) is not None


def is_parameter(name: str) -> bool:
    return ":" not in name


Member = tuple[str, Any, "dict[str, Any] | None"]
"""Name, value, and the dictionary that has it under its name, where there is one."""


def _of(owner: dict[str, Any]) -> Iterator[Member]:
    """It may change meanwhile."""
    for name, value in list(owner.items()):
        yield name, value, owner


def _members(value: Any) -> Iterator[Member]:
    """What a function has closed over, or an object holds."""
    if isinstance(value, functools.partial):
        yield from (("func", value.func, None), ("args", value.args, None), ("keywords", value.keywords, None))
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__, None), ("function", value.__func__, None))
    elif isinstance(value, types.FunctionType):
        if not _is_foreign(value.__module__ or ""):
            yield from _closure(value)
    elif isinstance(value, torch.nn.Module):
        # Held, but no layer of the model: a copy of one, or one that is not to be seen.
        yield from _kept(member for member in _of(vars(value)) if member[0] not in _OF_MODULE)
        for kind in (value._parameters, value._buffers, value._modules):
            yield from _kept(_of(kind))
    elif not _is_foreign(type(value).__module__):
        held = _of(getattr(value, "__dict__", {}))
        yield from held if type(value).__module__.startswith(_OF_LAYERS) else _kept(held)
        for kind in type(value).__mro__:
            for name in _slots(kind):
                if hasattr(value, name):
                    yield name, getattr(value, name), None


def _closure(function: types.FunctionType) -> Iterator[Member]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents, None
        except ValueError:
            # Not assigned yet.
            continue
    yield from (("defaults", function.__defaults__, None), ("keywords", function.__kwdefaults__, None))
    yield from _kept(_of(vars(function)))


def _kept(members: Iterator[Member]) -> Iterator[Member]:
    """None of them may be replaced."""
    return ((name, value, None) for name, value, _ in members)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


_OF_MODULE = frozenset(vars(torch.nn.Module()))
"""What every module has, beside what its class or the engine has given it."""
