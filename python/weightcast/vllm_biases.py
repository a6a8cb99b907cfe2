"""Biases, of which vLLM's layerwise reload has no record: it leaves them where they are, and loaders write them at once.

A model of vLLM's Transformers backend makes the bias of its head anew whenever a checkpoint has one, which the reload
neither counts nor keeps.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from .errors import ModelNotReloadable

_REGISTER = "_register_bias"
"""Of vLLM's ParallelLMHead."""

TIED_BIAS = "a bias of the head that is tied to the embedding, and vLLM's reload would load it with an empty weight"


class Biases:
    """Of one update of one model. `infos`: vLLM's records of its layers."""

    def __init__(self, layerwise: Any, layers: Sequence[Any], infos: Sequence[Any]) -> None:
        self._layerwise = layerwise
        self._layers = layers
        self._infos = infos
        pairs = zip(layers, infos, strict=True)
        self._heads = [(layer, info) for layer, info in pairs if hasattr(type(layer), _REGISTER)]
        self._before: dict[int, torch.Tensor | None] = {}
        # Heads that were processed before the files turned out to have a bias.
        self._late: list[Any] = []
        self._tied_head: Any | None = None

    def begin(self, tied_head: Any | None) -> None:
        """Before anything changes. `tied_head`: one whose weight is the embedding's."""
        self._late = []
        self._tied_head = tied_head
        self._before = {
            index: None if bias is None else bias.detach().clone()
            for index, bias in enumerate(layer._parameters.get("bias") for layer in self._layers)
            if bias is not None or hasattr(type(self._layers[index]), _REGISTER)
        }

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Around `load_weights`: a head makes its bias once, and vLLM counts what comes for it."""
        for head, info in self._heads:
            vars(head)[_REGISTER] = functools.partial(self._register, head, info, getattr(head, _REGISTER))
        try:
            yield
        finally:
            for head, _ in self._heads:
                del vars(head)[_REGISTER]

    def process_late(self) -> None:
        """When all is loaded: what was processed without its bias once more, as on the CPU that has a form of its own."""
        for head in self._late:
            head.quant_method.process_weights_after_loading(head)

    def put_back(self, waiting: Collection[int]) -> None:
        """Of layers that have their other tensors from before again, by their index."""
        for index in waiting & self._before.keys():
            layer, before = self._layers[index], self._before[index]
            if before is None:
                layer._parameters["bias"] = None
            elif layer._parameters.get("bias") is not None:
                layer.bias.data.copy_(before)
        self._before = {}

    def _register(self, head: Any, info: Any, register: Callable[[], None]) -> None:
        if head._parameters.get("bias") is not None:
            return
        if head is self._tied_head:
            raise ModelNotReloadable(f"the checkpoint has {TIED_BIAS}")
        waits = info.kernel_tensors is not None
        collecting = getattr(self._layerwise, "make_online_process_loader", None)
        if waits and collecting is None:
            register()
            return
        if not waits and type(head.quant_method).__name__ != "UnquantizedEmbeddingMethod":
            raise ModelNotReloadable(
                "the checkpoint has a bias of the head, which the engine started without, after the head's weight, "
                "which is packed already; start the engine with the checkpoint's files"
            )
        register()
        if waits:
            head.bias.weight_loader = collecting(head, "bias")
            info.kernel_tensors[0].setdefault("bias", head.bias)
        else:
            self._late.append(head)


def came_late(layer: Any, info: Any) -> set[str]:
    """Names of parameters that a layer was given while it waits for weights, past vLLM's reload, which drops them."""
    created, kernel = info.restore_metadata[0], info.kernel_tensors[0]
    return {
        name
        for name, parameter in layer._parameters.items()
        if parameter is not None and name not in created and parameter is not kernel.get(name)
    }
