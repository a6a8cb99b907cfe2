"""weightcast's worker extension, which notes when it works, when vLLM loads and when it is looked at what a model holds."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.model_loader.reload import layerwise
from weightcast.vllm_live import LiveModels
from weightcast.vllm_reload import LayerwiseReload
from weightcast.worker import VllmWorkerExtension

_spans: dict[str, list[list[float]]] = {"update": [], "load": [], "proof": []}
_begun: dict[str, float] = {}


def _begin(what: str) -> None:
    _begun[what] = time.monotonic()


def _end(what: str) -> None:
    """Milliseconds of CLOCK_MONOTONIC, until the GPU has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    _spans[what].append([1e3 * _begun[what], 1e3 * time.monotonic()])


def _timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*values: Any, **named: Any) -> Any:
        _begin(what)
        try:
            return function(*values, **named)
        finally:
            _end(what)

    return timed


def _not_loading(function: Callable[..., Any]) -> Callable[..., Any]:
    """Called by what one call of `load_weights` takes from bucket to bucket."""

    @functools.wraps(function)
    def other(*values: Any, **named: Any) -> Any:
        _end("load")
        try:
            return function(*values, **named)
        finally:
            _begin("load")

    return other


for _name in ("initialize_layerwise_reload", "finalize_layerwise_reload"):
    setattr(layerwise, _name, _timed("load", getattr(layerwise, _name)))
for _name in ("begin", "installed"):
    setattr(LiveModels, _name, _timed("proof", getattr(LiveModels, _name)))
LayerwiseReload._following = _not_loading(LayerwiseReload._following)


class TimedExtension(VllmWorkerExtension):
    update_weights_from_weightcast = _timed("update", VllmWorkerExtension.update_weights_from_weightcast)

    def take_spans(self) -> dict[str, list[list[float]]]:
        """Of what has happened since they were taken last; from the first call on, also those of `load_weights`."""
        model: Any = self.get_model()  # type: ignore[attr-defined]
        if "load_weights" not in vars(model):
            model.load_weights = _timed("load", model.load_weights)
        taken = dict(_spans)
        _spans.update({what: [] for what in taken})
        return taken
