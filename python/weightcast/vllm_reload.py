"""How the weights of one live vLLM model are changed: by vLLM's own reload, layer by layer, where it has one.

vLLM 0.17 and later record how each layer was created. A reload puts that form back, on the meta device, collects what
`load_weights` is given until a layer is whole, and then loads and processes the layer as at the start of the engine and
copies the result into the tensors that kernels and captured CUDA graphs read.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .buckets import Bucket, Pair
from .errors import ModelNotReloadable, WeightcastError
from .kept_parts import KeptParts
from .live_tensors import Walks
from .model_layers import Named, named_layers
from .vllm_biases import Biases
from .vllm_call_checks import CallChecks
from .vllm_coverage import Coverage, check_coverage
from .vllm_derived import DerivedTensors, renew_combined_gates
from .vllm_experts import check_experts
from .vllm_held import HeldTensors, waiting_for_others
from .vllm_reloadable import Target, check_layers, tied_head

# Below vLLM's own logger, so that it is printed as vLLM's lines are.
logger = logging.getLogger("vllm.weightcast")

Weights = list[Pair]

_PROCESS = "process_weights_after_loading"
_LAYERWISE = "vllm.model_executor.model_loader.reload.layerwise"


class LayerwiseReload:
    """One update of one model. Call `abandon` after any failure: it leaves each layer whole, with old or new weights."""

    kind = "layerwise"

    def __init__(
        self, layerwise: Any, target: Target, device: torch.device, walks: Walks, parts: KeptParts
    ) -> None:
        self._device = device
        self._walks = walks
        self._layerwise = layerwise
        self._target = target
        self._parts = parts
        named = named_layers(target.model)
        self._layers = [layer for _, layer in named]
        self._infos = [layerwise.get_layerwise_info(layer) for layer in self._layers]
        # Without the layers that a draft model shares with its target, which are the target's to load.
        self._own = self._infos
        self._held = HeldTensors(self._infos)
        self._biases = Biases(layerwise, self._layers, self._infos)
        self._checks = CallChecks()
        self._lent: set[int] = set()
        self._under_way = False
        self._tied_head: Any | None = None
        self._derived = DerivedTensors(target.model, walks)
        self._end_what_is_under_way()
        check_layers(target, self._layers, self._infos)
        self._tied_head = tied_head(target)
        self._coverage = self._coverage_to_check(named)

    def begin(self) -> None:
        self._own = [info for info in self._infos if not _is_under_way(info)]
        self._under_way = True
        self._forget_waiting()
        self._biases.begin(self._tied_head)
        self._layerwise.initialize_layerwise_reload(self._target.model)
        if self._tied_head is not None:
            # The embedding's alone, as at the start, where vLLM passes over the second name of a tensor: files may still have
            # a head from before it was tied.
            self._tied_head.weight.weight_loader = _pass_over
        self._held.begin()

    def load(self, weights: Weights) -> None:
        """And the buckets that follow, if `weights` is one that others may follow. Nothing reads the memory of any of them any
        more once this has returned or raised."""
        self._lent = _lent_for(weights)
        given = self._each(weights) if isinstance(weights, Bucket) and weights.following else weights
        with self._processing_on_its_device(), self._biases.kept(), self._parts.watch(), self._checks.put_off():
            self._target.model.load_weights(given)
        # Layers that are not whole hold on to what they were given; the link buffer is about to be overwritten.
        self._held.own(self._lent)

    def _each(self, bucket: Bucket | None) -> Iterator[Pair]:
        """In one call, as models load when the engine starts: what each call does once takes them longer than a tensor."""
        while bucket is not None:
            yield from bucket.each()
            bucket = self._following(bucket)

    def _following(self, bucket: Bucket) -> Bucket | None:
        self._held.own_new(self._lent)
        following = bucket.following() if bucket.following else None
        if following is not None:
            self._lent = _lent_for(following)
        return following

    @contextlib.contextmanager
    def _processing_on_its_device(self) -> Iterator[None]:
        """A layer that is whole makes tensors on the default device, of which torch asks Python in every operation: half the
        time that a tensor takes. So it is set for that alone; loaders make no tensors, neither now nor when they are run again
        for the whole layer. What that reads was read before; and compiled functions do not run as such while reads are watched."""
        layerwise = self._layerwise
        materialize, process = layerwise.materialize_layer, layerwise._layerwise_process
        methods: dict[int, tuple[Any, Any]] = {}

        def processed(layer: Any, info: Any) -> Any:
            method = getattr(layer, "quant_method", None)
            if id(method) not in methods and hasattr(method, _PROCESS) and hasattr(method, "__dict__"):
                methods[id(method)] = method, vars(method).get(_PROCESS)
                setattr(method, _PROCESS, _on(self._device, getattr(method, _PROCESS)))
            with self._parts.unwatched():
                return process(layer, info)

        layerwise.materialize_layer = _on(self._device, materialize)
        layerwise._layerwise_process = processed
        try:
            yield
        finally:
            layerwise.materialize_layer, layerwise._layerwise_process = materialize, process
            for method, own in methods.values():
                delattr(method, _PROCESS)
                if own is not None:
                    setattr(method, _PROCESS, own)

    def finish(self) -> bool:
        """Whether the model took any of the weights."""
        if not self._took_any():
            if self._target.required:
                raise WeightcastError(f"the {self._target.which} model took none of the tensors")
            self._put_back(self._waiting())
            self._under_way = False
            return False
        missing = self._coverage.missing() if self._coverage is not None else []
        missing += [name for name in self._checks.missing() if name not in missing]
        for waiting in waiting_for_others(self._layers):
            missing += [f"the rest of {name}" for name in waiting]
            waiting.clear()
        self._finalize()
        self._under_way = False
        check_coverage(self._target.which, missing)
        return True

    @property
    def coverage(self) -> str:
        """After `finish`: `complete`, or `unknown` where nobody knows what a checkpoint must have."""
        return "complete" if self._coverage is not None and self._coverage.is_complete else "unknown"

    def abandon(self) -> None:
        if self._under_way:
            self._under_way = False
            self._restore()

    def _end_what_is_under_way(self) -> None:
        """What an update by other means left half-way, vLLM would take for a part of this one."""
        if any(map(_is_under_way, self._infos)):
            logger.warning("an earlier update left layers of the %s model half-way", self._target.which)
            with self._device:
                self._restore()

    def check_proven(self) -> None:
        """Raises ModelNotReloadable."""
        for layer in self._layers:
            check_experts(layer, self._target.which)

    def _coverage_to_check(self, layers: Named) -> Coverage | None:
        # A draft model has its embeddings and its head from the target, and no more than some checkpoints have them.
        if self._target.which != "target":
            return None
        meta = importlib.import_module(_LAYERWISE.replace(".layerwise", ".meta"))
        never_loaded = getattr(meta, "SKIP_LOAD_TENSORS", ())
        return Coverage(
            layers,
            self._layerwise.get_layerwise_info,
            never_loaded,
            quantised=self._target.model_config.quantization is not None,
        )

    def _took_any(self) -> bool:
        return any(not _is_under_way(info) or info.load_numel > 0 for info in self._own)

    def _finalize(self) -> None:
        self._layerwise.finalize_layerwise_reload(self._target.model, self._target.model_config)
        # vLLM takes it for a layer without new weights, but on the CPU it holds a packed copy of the embedding's.
        if self._tied_head is not None:
            self._tied_head.quant_method.process_weights_after_loading(self._tied_head)
        self._biases.process_late()
        renew_combined_gates(self._layers)
        self._derived.put_back()

    def _forget_waiting(self) -> None:
        for waiting in waiting_for_others(self._layers):
            waiting.clear()

    def _restore(self) -> None:
        """Drops what layers were given, so that vLLM takes those that are not whole for layers without new weights."""
        self._forget_waiting()
        has_new_layers = not all(map(_is_under_way, self._own))
        waiting = self._waiting()
        for info in filter(_is_under_way, self._infos):
            info.loaded_weights.clear()
            info.load_numel = 0
        try:
            # Attention layers keep what they computed of their neighbours' weights.
            if has_new_layers:
                self._finalize()
        except Exception:
            logger.exception("vLLM could not process the %s model after a failed update", self._target.which)
        self._put_back(waiting)

    def _waiting(self) -> set[int]:
        """Layers that are not whole, by their index."""
        return {index for index, info in enumerate(self._infos) if _is_under_way(info)}

    def _put_back(self, waiting: set[int]) -> None:
        """Gives layers that were not whole their tensors from before the update; vLLM has, but for biases, where it finalized."""
        for index in waiting & self._waiting():
            self._layerwise._place_kernel_tensors(self._layers[index], self._infos[index])
            self._infos[index].reset()
        self._biases.put_back(waiting)
        self._walks.changed()
        model = self._target.model
        if hasattr(model, "_original_do_torchao_reload"):
            model._do_torchao_reload = model._original_do_torchao_reload


class RawReload:
    """For a vLLM without a reload of its own: right for models that kernels read as they lie in the files."""

    kind = "raw"
    coverage = "unknown"

    def __init__(self, target: Target, device: torch.device, walks: Walks, parts: KeptParts) -> None:
        self._target = target
        self._device = device
        self._walks = walks
        self._parts = parts
        self._checks = CallChecks()
        self._took_any = False

    def begin(self) -> None:
        logger.warning("this vLLM has no layerwise reload: models that it repacks or quantises end up wrong")

    def check_proven(self) -> None:
        """There is nothing else to choose from."""

    def load(self, weights: Weights) -> None:
        names = None
        with torch.device(self._device), self._parts.watch(), self._checks.put_off():
            names = self._target.model.load_weights(weights)
        self._took_any = self._took_any or names is None or len(names) > 0

    def finish(self) -> bool:
        if self._took_any:
            from vllm.model_executor.model_loader.utils import process_weights_after_loading

            process_weights_after_loading(self._target.model, self._target.model_config, self._device)
            self._walks.changed()
            check_coverage(self._target.which, self._checks.missing())
        elif self._target.required:
            raise WeightcastError(f"the {self._target.which} model took none of the tensors")
        return self._took_any

    def abandon(self) -> None:
        """What was loaded is in the model; there is nothing to go back to."""


Reload = LayerwiseReload | RawReload


def reload_of(target: Target, device: torch.device, walks: Walks, parts: KeptParts) -> Reload:
    """`parts` sees what is read. Touches nothing but what another update left half-way. Raises ModelNotReloadable."""
    layerwise = _layerwise()
    if layerwise is None:
        return RawReload(target, device, walks, parts)
    return LayerwiseReload(layerwise, target, device, walks, parts)


def check_reloadable(target: Target) -> None:
    """Raises ModelNotReloadable where `reload_of` would. Touches nothing."""
    layerwise = _layerwise()
    if layerwise is None:
        return
    layers = [layer for _, layer in named_layers(target.model)]
    check_layers(target, layers, [layerwise.get_layerwise_info(layer) for layer in layers])
    tied_head(target)


def is_layerwise() -> bool:
    """Whether this vLLM has a reload of its own."""
    return _layerwise() is not None


def _layerwise() -> Any | None:
    """vLLM's module. Raises ModelNotReloadable if it is another than weightcast knows."""
    try:
        layerwise = importlib.import_module(_LAYERWISE)
    except ImportError:
        return None
    needed = (
        "initialize_layerwise_reload",
        "finalize_layerwise_reload",
        "get_layerwise_info",
        "_place_kernel_tensors",
        "_layerwise_process",
        "materialize_layer",
    )
    lacking = [name for name in needed if not hasattr(layerwise, name)]
    if lacking:
        raise ModelNotReloadable(
            f"this vLLM's layerwise reload is not one that weightcast knows: no {lacking[0]}"
        )
    return layerwise


def _on(device: torch.device, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def on_device(*values: Any, **named: Any) -> Any:
        with device:
            return function(*values, **named)

    return on_device


def _pass_over(_param: Any, _weight: torch.Tensor, *_values: Any, **_named: Any) -> None:
    """In the place of a loader."""


def _lent_for(weights: Weights) -> set[int]:
    """Addresses of storages that are the model's no longer than until it is told so."""
    if isinstance(weights, Bucket):
        return {weights.lent}
    return {tensor.untyped_storage().data_ptr() for _, tensor in weights}


def _is_under_way(info: Any) -> bool:
    """Whether a layer waits for weights, and its tensors from before lie aside. One that is whole has been processed."""
    return info.load_numel_total is not None and info.kernel_tensors is not None
