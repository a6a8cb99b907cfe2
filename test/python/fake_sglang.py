"""As much of SGLang as an update of its models asks for, in modules of SGLang's names.

Layers load into the one form that they have; a quantisation method may repack them afterwards, and may be able to
restore them, as those of SGLang 0.5.23 and later.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from_disk: list[tuple[str, torch.Tensor]] = []
"""What a started model is loaded with."""


class Method:
    """Leaves a layer as it is."""

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        layer.processed += 1
        if layer.fails:
            raise ValueError("the layer cannot be processed")

    def restore_weights_before_loading(self, layer: nn.Module) -> None:
        return


class Negating(Method):
    """Changes the content in place, whatever was done before."""

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        super().process_weights_after_loading(layer)
        for parameter in layer._parameters.values():
            parameter.data.neg_()


class Packing(Method):
    """Puts another parameter, without a loader, into the place of each."""

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        super().process_weights_after_loading(layer)
        for name, parameter in list(layer._parameters.items()):
            setattr(layer, name, nn.Parameter(parameter.data.reshape(2, -1).clone(), requires_grad=False))


class Restoring(Packing):
    def restore_weights_before_loading(self, layer: nn.Module) -> None:
        for name, parameter in list(layer._parameters.items()):
            restored = nn.Parameter(parameter.data.reshape(-1), requires_grad=False)
            restored.weight_loader = layer.load
            setattr(layer, name, restored)


class Deriving(Method):
    """Keeps a tensor that it computes, which lies elsewhere each time."""

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        super().process_weights_after_loading(layer)
        layer.derived = sum(parameter.data for parameter in layer._parameters.values())


class Layer(nn.Module):
    """Loads parts of its parameters by a loader of its own."""

    def __init__(self, *names: str, method: Method | None = None, keeps: bool = False) -> None:
        super().__init__()
        self.processed = 0
        self.fails = False
        self.keeps = keeps
        self.quant_method = method or Method()
        for name in names:
            parameter = nn.Parameter(torch.zeros(4), requires_grad=False)
            parameter.weight_loader = self.load
            self.register_parameter(name, parameter)

    def load(self, parameter: torch.Tensor, weight: torch.Tensor, half: int | None = None) -> None:
        part = parameter.data if half is None else parameter.data.chunk(2)[half]
        assert part.shape == weight.shape, f"{tuple(weight.shape)} is not {tuple(part.shape)}"
        if self.keeps:
            parameter.data = weight
        else:
            part.copy_(weight)


class Norm(nn.Module):
    """Is loaded by SGLang's loader of whole parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4), requires_grad=False)


class Model(nn.Module):
    """Takes names such as `first.a`, or `first.a:1` for the second half of that; passes over foreign names."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        from sglang.srt.model_loader.weight_utils import default_weight_loader

        parameters = dict(self.named_parameters())
        for full_name, tensor in weights:
            name, _, half = full_name.partition(":")
            if name in parameters:
                load = getattr(parameters[name], "weight_loader", default_weight_loader)
                load(parameters[name], tensor, *([int(half)] if half else []))


def default_weight_loader(param: torch.Tensor, loaded_weight: torch.Tensor) -> None:
    param.data.copy_(loaded_weight)


def start(model: Model, weights: list[tuple[str, torch.Tensor]], load_format: str = "auto") -> Model:
    """As SGLang starts a model, plug-ins and all. Without weights, with those that it has."""
    loader = sys.modules["sglang.srt.model_loader.loader"]
    made = loader._initialize_model(model, types.SimpleNamespace(load_format=load_format), None)
    made.load_weights(weights)
    _process(made, torch.device("cpu"))
    return made


def _process(model: nn.Module, _device: torch.device) -> None:
    for layer in model.modules():
        if isinstance(layer, Layer):
            layer.quant_method.process_weights_after_loading(layer)


def _restore(model: nn.Module, _device: torch.device) -> None:
    for layer in model.modules():
        if isinstance(layer, Layer):
            layer.quant_method.restore_weights_before_loading(layer)


@contextlib.contextmanager
def _device_loading_context(layer: nn.Module, _device: torch.device) -> Iterator[nn.Module]:
    yield layer


class Manager:
    """A scheduler's updates: the target's, then the draft's, whose errors become answers."""

    def __init__(self, *runners: Any) -> None:
        self.runners = runners
        self.offload_tags: set[str] = set()
        self.tp_cpu_group = None

    def _select_runners(self) -> list[tuple[str, Any]]:
        return [("draft" if runner.is_draft_worker else "target", runner) for runner in self.runners]

    def update_weights_from_ipc(self, request: Any) -> Any:
        from sglang.srt.managers.io_struct import UpdateWeightsFromIPCReqOutput as Answer

        for runner in self.runners:
            try:
                from sglang.srt.checkpoint_engine.checkpoint_engine_worker import (
                    SGLangCheckpointEngineWorkerExtensionImpl as Extension,
                )

                Extension(runner).update_weights_from_ipc(request.zmq_handles)
            except ImportError as error:
                return Answer(success=False, message=f"IPC weight update failed: ImportError {error}")
            except Exception as error:
                return Answer(success=False, message=str(error))
        return Answer(success=True, message="IPC weight update completed successfully")


class Scheduler:
    def __init__(self, weight_updater: Any) -> None:
        self.weight_updater = weight_updater

    def get_internal_state(self, _request: Any) -> Any:
        return types.SimpleNamespace(internal_state={"tp_size": 1})


class HookType:
    AFTER, AROUND = "after", "around"


class HookRegistry:
    """Applies at once."""

    @staticmethod
    def register(target: str, hook: Callable[..., Any], kind: str) -> None:
        path, _, name = target.rpartition(".")
        holder = sys.modules.get(path)
        if holder is None:
            module, _, kind_of = path.rpartition(".")
            holder = getattr(sys.modules[module], kind_of)
        original = getattr(holder, name)

        @functools.wraps(original)
        def after(*values: Any, **named: Any) -> Any:
            result = original(*values, **named)
            changed = hook(result, *values, **named)
            return result if changed is None else changed

        @functools.wraps(original)
        def around(*values: Any, **named: Any) -> Any:
            return hook(original, *values, **named)

        setattr(holder, name, after if kind == HookType.AFTER else around)


def install(*, restores: bool = True, schedules: bool = True) -> None:
    """Puts the modules where `import sglang…` finds them, an older SGLang's without `restores`."""
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        del sys.modules[name]
    loaders = {"postprocess_weights": _process, "restore_weights_before_loading": _restore} if restores else {}
    srt = "sglang.srt"
    contents: dict[str, dict[str, Any]] = {
        "sglang": {},
        srt: {},
        f"{srt}.managers": {},
        f"{srt}.managers.io_struct": {"UpdateWeightsFromIPCReqOutput": types.SimpleNamespace},
        f"{srt}.managers.scheduler_components": {},
        f"{srt}.managers.scheduler_components.weight_updater": {
            "SchedulerWeightUpdaterManager": type("SchedulerWeightUpdaterManager", (Manager,), {}),
        },
        f"{srt}.model_loader": {},
        f"{srt}.model_loader.weight_utils": {"default_weight_loader": default_weight_loader},
        f"{srt}.model_loader.loader": {
            "DefaultModelLoader": type("DefaultModelLoader", (), {k: staticmethod(v) for k, v in loaders.items()}),
            "device_loading_context": _device_loading_context,
            "_initialize_model": lambda model, _load_config, _quant_config: model,
        },
        f"{srt}.plugins": {},
        f"{srt}.plugins.hook_registry": {"HookRegistry": HookRegistry, "HookType": HookType},
    }
    if schedules:
        contents[f"{srt}.managers.scheduler"] = {"Scheduler": type("Scheduler", (Scheduler,), {})}
    for name, members in contents.items():
        module = types.ModuleType(name)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        vars(module).update(members)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
