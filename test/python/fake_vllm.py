"""As much of vLLM as an update of its models asks for, in modules of vLLM's names.

The layerwise reload is a small one that keeps vLLM's promises: while it is under way parameters lie on the meta device,
loaders keep what they are given, and a layer that has all of it loads, is processed, and has the result copied into the
tensors that it had before.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

LAYERWISE = "vllm.model_executor.model_loader.reload.layerwise"

configurations: list[Any] = []
INFO: WeakKeyDictionary[nn.Module, Info] = WeakKeyDictionary()


@dataclass
class Info:
    restore_metadata: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
    load_numel: int = 0
    load_numel_total: int | None = None
    loaded_weights: list[tuple[str, inspect.BoundArguments]] = field(default_factory=list)
    kernel_tensors: tuple[dict[str, Any], dict[str, Any]] | None = None

    def reset(self) -> None:
        self.__init__(self.restore_metadata)


class Method:
    """As vLLM's quantisation methods: all layers share it."""

    def process_weights_after_loading(self, layer: Layer) -> None:
        layer.process()


class Layer(nn.Module):
    """Holds its weights negated for its kernel, and says how often it was processed."""

    quant_method: Any = Method()

    def __init__(self, *names: str, size: int = 4) -> None:
        super().__init__()
        self.processed = 0
        self.processed_on: torch.device | None = None
        self.fails = False
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.zeros(size), requires_grad=False))

    def process(self) -> None:
        self.processed += 1
        self.processed_on = torch.get_default_device()
        if self.fails:
            raise ValueError("the layer cannot be processed")
        for parameter in self._parameters.values():
            parameter.neg_()


class Split(Layer):
    """Keeps rows of each tensor, or columns, or experts: a rank's part, as vLLM's loaders take it."""

    def __init__(self, rank: int, ranks: int, **shapes: tuple[int, ...]) -> None:
        """Of parameters as they lie in the files; the name says along which dimension they are split, `rows0`."""
        super().__init__()
        self.rank = rank
        for name, shape in shapes.items():
            dim = int(name[-1])
            # As an embedding is padded: the last rank has fewer rows of the files than the others.
            part = [-(-size // ranks) if index == dim else size for index, size in enumerate(shape)]
            parameter = nn.Parameter(torch.zeros(part), requires_grad=False)
            parameter.weight_loader = self.load
            self.register_parameter(name, parameter)

    def load(self, param: torch.Tensor, weight: torch.Tensor, half: int | None = None) -> None:
        sizes = [int(part != whole) for part, whole in zip(param.shape, weight.shape, strict=True)]
        if 1 in sizes:
            dim = sizes.index(1)
            part = param.shape[dim]
            start = min(self.rank * part, weight.shape[dim])
            weight = weight.narrow(dim, start, min(part, weight.shape[dim] - start))
            param.data.narrow(dim, weight.shape[dim], part - weight.shape[dim]).fill_(0)
            param = param.narrow(dim, 0, weight.shape[dim])
        param.data.copy_(weight)


class UnquantizedEmbeddingMethod:
    """Counts how often a head was processed."""

    def process_weights_after_loading(self, layer: Head) -> None:
        layer.processed += 1


class Head(nn.Module):
    """vLLM's ParallelLMHead: its bias is registered once more by whatever loads one."""

    def __init__(self, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        self.quant_method: Any = UnquantizedEmbeddingMethod()
        self.processed = 0
        self.weight = weight if weight is not None else nn.Parameter(torch.zeros(4), requires_grad=False)
        self.register_parameter("bias", None)

    def _register_bias(self) -> None:
        self.bias = nn.Parameter(torch.full((4,), torch.nan), requires_grad=False)
        self.bias.weight_loader = load_whole


class Attention(Layer):
    """Keeps what it computes of its neighbour's weights."""

    def __init__(self, neighbour: Layer) -> None:
        super().__init__()
        self.neighbour = [neighbour]
        self.sum = 0.0

    def process_weights_after_loading(self, _dtype: torch.dtype) -> None:
        assert configurations, "the engine's configuration is not set"
        self.processed += 1
        self.sum = sum(float(parameter.sum()) for parameter in self.neighbour[0]._parameters.values())


class Model(nn.Module):
    """Layers by name. `load_weights` takes names such as `first.a`, or `first.a:1` for the second half of that.

    It passes over foreign names, or refuses them.
    """

    def __init__(self, refuses_foreign: bool = False, **layers: nn.Module) -> None:
        super().__init__()
        self.refuses_foreign = refuses_foreign
        for name, layer in layers.items():
            self.add_module(name, layer)
        for layer in self.modules():
            INFO[layer] = Info(({name: p.to("meta") for name, p in layer._parameters.items() if p is not None}, {}))
        for layer in self.modules():
            if isinstance(layer, Layer):
                layer.process()
                layer.processed = 0

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        assert configurations, "the engine's configuration is not set"
        parameters = dict(self.named_parameters(remove_duplicate=False))
        written = set()
        for full_name, tensor in weights:
            name, _, half = full_name.partition(":")
            if name == "lm_head.bias":
                # As the causal models of vLLM's Transformers backend do, whether there is one or not.
                self.lm_head._register_bias()
                self.lm_head.bias.weight_loader(self.lm_head.bias, tensor)
                written.add(name)
                continue
            if name not in parameters:
                if self.refuses_foreign:
                    raise KeyError(name)
                continue
            loader = getattr(parameters[name], "weight_loader", load_whole)
            loader(parameters[name], tensor, *([int(half)] if half else []))
            written.add(name)
        return written

    def held(self) -> dict[str, list[float]]:
        """Weights as the files have them."""
        return {name: (-parameter).tolist() for name, parameter in self.named_parameters()}


def load_whole(param: torch.Tensor, weight: torch.Tensor, half: int | None = None) -> None:
    part = param.data if half is None else param.data.chunk(2)[half]
    assert part.shape == weight.shape, f"{tuple(weight.shape)} is not {tuple(part.shape)}"
    part.copy_(weight)


def initialize_layerwise_reload(model: nn.Module) -> None:
    for layer in model.modules():
        info = INFO[layer]
        if info.load_numel_total is not None:
            continue
        info.kernel_tensors = ({name: p for name, p in layer._parameters.items() if p is not None}, {})
        info.load_numel_total = sum(parameter.numel() for parameter in info.restore_metadata[0].values())
        for name, meta in info.restore_metadata[0].items():
            delattr(layer, name)
            parameter = nn.Parameter(meta, requires_grad=False)
            layer.register_parameter(name, parameter)
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                parameter.weight_loader = _collecting_loader(layer, name)


def _collecting_loader(layer: nn.Module, name: str) -> Any:
    info, loader = INFO[layer], getattr(layer, "load", load_whole)
    signature = inspect.signature(loader)

    def load(*values: Any, **named: Any) -> None:
        if info.load_numel_total is None:
            return
        # Layers may have got a bias since.
        info.load_numel_total = sum(parameter.numel() for parameter in layer._parameters.values() if parameter is not None)
        arguments = signature.bind(*values, **named)
        info.loaded_weights.append((name, arguments))
        with CopyCounter() as counter:
            loader(*arguments.args)
        info.load_numel += counter.copied
        if info.load_numel >= info.load_numel_total:
            sys.modules[LAYERWISE]._layerwise_process(layer, info)

    return load


class CopyCounter(TorchDispatchMode):
    """Counts as vLLM's does."""

    def __init__(self) -> None:
        super().__init__()
        self.copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self.copied += args[0].numel()
        return func(*args, **(kwargs or {}))


def materialize_layer(layer: Any, info: Info) -> None:
    for name, meta in info.restore_metadata[0].items():
        setattr(layer, name, nn.Parameter(torch.full(meta.shape, torch.nan), requires_grad=False))


def _layerwise_process(layer: Any, info: Info) -> None:
    sys.modules[LAYERWISE].materialize_layer(layer, info)
    for name, arguments in info.loaded_weights:
        arguments.arguments["param"] = getattr(layer, name)
        getattr(layer, "load", load_whole)(*arguments.args)
    getattr(layer.quant_method, "process_weights_after_loading", lambda layer: layer.process())(layer)
    for name, parameter in info.kernel_tensors[0].items():
        parameter.copy_(getattr(layer, name))
    _place_kernel_tensors(layer, info)
    info.reset()


def _place_kernel_tensors(layer: nn.Module, info: Info) -> None:
    for name in list(layer._parameters):
        delattr(layer, name)
    for name, parameter in info.kernel_tensors[0].items():
        layer.register_parameter(name, parameter)


def finalize_layerwise_reload(model: nn.Module, model_config: Any) -> None:
    for layer in model.modules():
        info = INFO[layer]
        if info.load_numel_total is None or isinstance(layer, Attention):
            continue
        if info.load_numel > 0:
            _layerwise_process(layer, info)
        else:
            _place_kernel_tensors(layer, info)
            info.reset()
    for layer in model.modules():
        if isinstance(layer, Attention):
            layer.process_weights_after_loading(model_config.dtype)
            INFO[layer].reset()


@contextlib.contextmanager
def set_current_vllm_config(configuration: Any) -> Iterator[None]:
    configurations.append(configuration)
    try:
        yield
    finally:
        configurations.pop()


def _process_weights_after_loading(model: nn.Module, _model_config: Any, _device: torch.device) -> None:
    for layer in model.modules():
        if isinstance(layer, Layer):
            layer.process()


def install(*, layerwise: bool = True) -> None:
    """Puts the modules where `import vllm…` finds them, an older vLLM's without `layerwise`."""
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        del sys.modules[name]
    loader = "vllm.model_executor.model_loader"
    contents: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.config": {"set_current_vllm_config": set_current_vllm_config},
        "vllm.model_executor": {},
        loader: {},
        f"{loader}.utils": {"process_weights_after_loading": _process_weights_after_loading},
    }
    if layerwise:
        contents[f"{loader}.reload"] = {}
        contents[f"{loader}.reload.meta"] = {"SKIP_LOAD_TENSORS": {"expert_map"}}
        contents[LAYERWISE] = {
            "initialize_layerwise_reload": initialize_layerwise_reload,
            "finalize_layerwise_reload": finalize_layerwise_reload,
            "get_layerwise_info": INFO.__getitem__,
            "_place_kernel_tensors": _place_kernel_tensors,
            "_layerwise_process": _layerwise_process,
            "materialize_layer": materialize_layer,
            "make_online_process_loader": _collecting_loader,
        }
    for name, members in contents.items():
        put_module(name, **members)


def put_module(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(members)
    sys.modules[name] = module
