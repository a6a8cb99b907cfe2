"""Which parameters an update must write: those that vLLM fills from a checkpoint when it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .errors import ParametersMissing

_NAMED_AT_MOST = 8


def expected_parameters(
    model: Any, model_config: Any, info_of: Callable[[Any], Any], never_loaded: Iterable[str]
) -> set[str] | None:
    """Names as `load_weights` returns them, or None where nobody knows which of them a checkpoint has.

    That is a quantised model, whose scales and packed forms may or may not lie in the files. Of any other, every
    parameter comes out of the files, but for those of a quantised key-value cache and those in `never_loaded`.

    `info_of`: vLLM's record of a layer as it was created, before anything was fused or packed for the kernels.
    """
    if model_config.quantization is not None:
        return None
    unique = {name for name, _ in model.named_parameters()}
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    expected = set()
    for prefix, layer in model.named_modules():
        if _is_of_cache(getattr(layer, "quant_method", None)):
            continue
        created = set(info_of(layer).restore_metadata[0])
        # vLLM leaves biases where they are, and so has no record of them.
        created |= {
            name for name, parameter in layer._parameters.items() if name == "bias" and parameter is not None
        }
        expected |= {f"{prefix}.{name}" if prefix else name for name in created - set(never_loaded)}
    # Two names of one parameter, as with tied embeddings: the files have it once.
    return without_lora(expected - (every - unique))


def without_lora(names: Iterable[str]) -> set[str]:
    """A layer that is wrapped for LoRA is one level further down; the files, and `load_weights`, know nothing of it."""
    return {name.replace(".base_layer.", ".") for name in names}


def check_coverage(which: str, expected: set[str], written: set[str]) -> None:
    """Raises ParametersMissing, which names what this update should have written and did not."""
    missing = sorted(expected - written)
    if not missing:
        return
    names = ", ".join(missing[:_NAMED_AT_MOST])
    more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
    raise ParametersMissing(
        f"the update wrote {len(expected) - len(missing)} of {len(expected)} parameters of the {which} model; "
        f"the checkpoint has nothing for {names}{more}"
    )


def _is_of_cache(quant_method: object) -> bool:
    return any(base.__name__ == "BaseKVCacheMethod" for base in type(quant_method).__mro__)
