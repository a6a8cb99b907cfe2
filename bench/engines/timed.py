"""weightcast's worker extension, which notes when vLLM loads and when it is looked at what a model holds."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.model_loader.reload import layerwise
from weightcast.vllm_live import LiveModels
from weightcast.worker import VllmWorkerExtension

_spans: dict[str, list[list[float]]] = {"load": [], "proof": []}


def _timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Milliseconds of CLOCK_MONOTONIC, from the call until the GPU has done what was asked of it."""

    @functools.wraps(function)
    def timed(*values: Any, **named: Any) -> Any:
        begun = time.monotonic()
        try:
            return function(*values, **named)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            _spans[what].append([1e3 * begun, 1e3 * time.monotonic()])

    return timed


for _name in ("initialize_layerwise_reload", "finalize_layerwise_reload"):
    setattr(layerwise, _name, _timed("load", getattr(layerwise, _name)))
for _name in ("begin", "installed"):
    setattr(LiveModels, _name, _timed("proof", getattr(LiveModels, _name)))


class TimedExtension(VllmWorkerExtension):
    def take_spans(self) -> dict[str, list[list[float]]]:
        """Of what has happened since they were taken last; from the first call on, also those of `load_weights`."""
        model: Any = self.get_model()  # type: ignore[attr-defined]
        if "load_weights" not in vars(model):
            model.load_weights = _timed("load", model.load_weights)
        taken = dict(_spans)
        _spans.update({what: [] for what in taken})
        return taken
