"""Which models vLLM's reload is known to leave wrong, so that they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ModelNotReloadable
from .model_layers import member_of
from .vllm_biases import TIED_BIAS


@dataclass(frozen=True)
class Target:
    """A model that an update writes."""

    which: str
    """`target` or `draft`, for messages."""
    model: Any
    model_config: Any
    required: bool = True
    """A draft model may have no tensors in the checkpoint; then it is left as it is."""


def check_layers(target: Target, layers: Sequence[Any], infos: Sequence[Any]) -> None:
    """`infos`: vLLM's records of the layers. Raises ModelNotReloadable."""
    recorded = any(any(info.restore_metadata) for info in infos)
    if not recorded and next(target.model.parameters(), None) is not None:
        raise ModelNotReloadable(
            f"vLLM has no record of how the {target.which} model was created, so it cannot reload it "
            "in place; start the engine with another --load-format"
        )
    if any(map(_is_packed_once, layers)):
        raise ModelNotReloadable(
            f"vLLM packs the {target.which} model's experts for the CPU when it starts, and never again"
        )


def tied_head(target: Target) -> Any | None:
    """A head that is a layer of its own around the embedding's weight. Raises ModelNotReloadable for one with its own."""
    model = target.model
    head = getattr(model, "lm_head", None)
    weight = getattr(head, "weight", None)
    is_tied = getattr(target.model_config.hf_text_config, "tie_word_embeddings", False)
    if weight is None or not is_tied:
        return None
    if [layer for _, layer in model.named_modules(remove_duplicate=False)].count(head) > 1:
        # It is the embedding itself.
        return None
    others = (layer for layer in model.modules() if layer is not head)
    is_shared = any(weight is parameter for layer in others for parameter in layer._parameters.values())
    if not is_shared or type(head.quant_method).__name__ != "UnquantizedEmbeddingMethod":
        raise ModelNotReloadable(
            f"the {target.which} model ties its word embeddings, but its lm_head holds a copy in a form of its own, "
            "which vLLM's reload leaves as it was"
        )
    if head._parameters.get("bias") is not None:
        raise ModelNotReloadable(f"the {target.which} model has {TIED_BIAS}")
    return head


def _is_packed_once(layer: Any) -> bool:
    """Experts on the CPU: their kernel keeps a packed copy, which a reload does not renew."""
    if getattr(member_of(layer, "quant_method"), "moe_kernel", None) is None:
        return False
    return all(parameter.device.type == "cpu" for parameter in layer.parameters())
