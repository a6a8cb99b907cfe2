"""What the models of a vLLM worker hold, and what of it only vLLM knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from .errors import ModelNotReloadable, TensorsMoved
from .live_digests import LiveState, Model, forget
from .live_tensors import Probes, Walks
from .messages import Installed
from .vllm_place import captures_graphs, place_of
from .vllm_reloadable import Target

# Below vLLM's own logger, so that it is printed as vLLM's lines are.
logger = logging.getLogger("vllm.weightcast")

_NAMED_AT_MOST = 8
_PROBE_ROWS = 2


class LiveModels:
    """The models of one update, or of none. Begin before anything changes."""

    def __init__(
        self, targets: Sequence[Target], vllm_config: Any, device: torch.device, walks: Walks
    ) -> None:
        self._targets = targets
        self._vllm_config = vllm_config
        self._device = device
        self._walks = walks
        # A worker's draft model is compared along with its target.
        self._models = [
            Model("" if target is targets[0] else f"{target.which}/", target.model) for target in targets
        ]
        self._state: LiveState | None = None

    def begin(self, *, is_asked: bool) -> None:
        """`is_asked`: whether `installed` will be called."""
        try:
            with torch._C.DisableTorchFunction():
                if is_asked:
                    self._state = LiveState(self._models, self._walks)
                else:
                    forget(self._models, self._walks)
        except Exception:
            logger.exception("what the models hold cannot be seen, and is not reported")

    def installed(self, coverage: str) -> Installed | None:
        """Waits for the device. Raises TensorsMoved. None if it cannot be seen: models may hold anything.

        `coverage`: what is known of it, `complete` or `unknown`.
        """
        if self._state is None:
            return None
        try:
            has_graphs = captures_graphs(self._vllm_config, self._device)
            with torch._C.DisableTorchFunction():
                self._state.settle(self._walks)
                moved = self._state.moved(self._device.type) if has_graphs else []
                digests = self._state.take()
        except Exception:
            logger.exception("what the models hold cannot be seen, and is not reported")
            return None
        _refuse_moved(moved)
        first = self._targets[0]
        return Installed(
            place=place_of(first.which, first.model, self._vllm_config, self._device),
            coverage=coverage if self._state.is_whole else "unknown",
            layout=digests.layout,
            words=digests.words,
            names=digests.names,
        )


def refuse_moved_experts(target: Target, vllm_config: Any) -> None:
    """Raises ModelNotReloadable: a reload puts experts where they were at the start, not where EPLB has moved them."""
    if not getattr(getattr(vllm_config, "parallel_config", None), "enable_eplb", False):
        return
    for path, layer in target.model.named_modules():
        places = _expert_places(layer)
        if places is not None and not torch.equal(places.cpu().long(), _initial_places(places)):
            raise ModelNotReloadable(
                f"vLLM has moved the experts of {path} among its GPUs (EPLB), and a reload would load them to their "
                "first places; restart the engine, or start it without --enable-eplb"
            )


def _expert_places(layer: Any) -> torch.Tensor | None:
    """Logical experts to the places of their copies, -1 for no further copy."""
    held = vars(layer)
    for holder in (held.get("eplb_state"), getattr(held.get("router"), "eplb_state", None), layer):
        places = getattr(holder, "logical_to_physical_map", None)
        if isinstance(places, torch.Tensor):
            return places
    return None


def _initial_places(places: torch.Tensor) -> torch.Tensor:
    """vLLM's first arrangement: the experts in their order, and after them copies of the first ones."""
    experts, copies = places.shape
    physical = int((places >= 0).sum())
    initial = torch.full((experts, copies), -1, dtype=torch.int64)
    for place in range(physical):
        if place // experts < copies:
            initial[place % experts, place // experts] = place
    return initial


def _refuse_moved(names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
        raise TensorsMoved(
            f"captured CUDA graphs read tensors where they lay before the update: {', '.join(names[:_NAMED_AT_MOST])}{more}"
        )


def walks_of(vllm_config: Any) -> Walks:
    """Of a vLLM worker's models."""
    return Walks(_probes(vllm_config))


def _probes(vllm_config: Any) -> Probes:
    """On a CPU, oneDNN has packed weights behind a pointer: its answer to fixed numbers stands for them."""

    def product(path: str, handler: Any) -> torch.Tensor | None:
        # The same class holds quantised weights, which take other arguments.
        if ":cpu_linear" not in path:
            return None
        from vllm import _custom_ops

        generator = torch.Generator().manual_seed(1)
        numbers = torch.randn(_PROBE_ROWS, handler.k, generator=generator)
        return _custom_ops.onednn_mm(handler, numbers.to(vllm_config.model_config.dtype), None)

    return {"CPUDNNLGEMMHandler": product}
