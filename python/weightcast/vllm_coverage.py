"""Whether an update has written every parameter that vLLM fills from a checkpoint when it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .errors import ParametersMissing
from .model_layers import Named, has_base, member_of
from .vllm_biases import came_late

_NAMED_AT_MOST = 8


class Coverage:
    """Goes by what reached each layer's loaders: the names that `load_weights` returns also have what it passed over.

    Nobody knows which scales and packed forms the files of a quantised model have. Of any other model every
    parameter comes out of the files, but for those of a quantised key-value cache and those in `never_loaded`.

    Scales that the files lack, of a layer that they have, are missing from a quantised model too: at the start of the
    engine they keep the value that vLLM created them with, but after a reload whatever lay in their memory.
    """

    def __init__(
        self, layers: Named, info_of: Callable[[Any], Any], never_loaded: Iterable[str], *, quantised: bool
    ) -> None:
        """Of a model that lies as its kernels read it. `info_of`: vLLM's record of a layer, as it was created."""
        self._info_of = info_of
        self.is_complete = not quantised
        never = set(never_loaded)
        seen: set[int] = set()
        self._expected: list[tuple[str, Any, set[str]]] = []
        for path, layer in layers:
            # Two names of one parameter, as with tied embeddings: the files have it once.
            aliases = set()
            for name, parameter in layer._parameters.items():
                if parameter is not None and id(parameter) in seen:
                    aliases.add(name)
                seen.add(id(parameter))
            if has_base(type(member_of(layer, "quant_method")), "BaseKVCacheMethod"):
                continue
            created = set(info_of(layer).restore_metadata[0])
            # vLLM leaves biases where they are, and so has no record of them.
            if layer._parameters.get("bias") is not None:
                created.add("bias")
            self._expected.append((f"{path}." if path else "", layer, created - never - aliases))

    def missing(self) -> list[str]:
        """Names of parameters that have no new weights, or not all. While layers that are not whole still wait."""
        missing = []
        for prefix, layer, expected in self._expected:
            info = self._info_of(layer)
            # A layer that has all of its weights has been processed, and waits for no more.
            if info.load_numel_total is None:
                continue
            written = {name for name, _ in info.loaded_weights}
            if info.kernel_tensors is not None:
                late = came_late(layer, info) - written
                missing += [prefix + name for name in late - expected]
            if not self.is_complete:
                scales = {name for name in expected if written and "scale" in name}
                missing += [prefix + name for name in scales - written]
                continue
            if expected <= written and _is_padded(layer):
                continue
            # Which one is short of weights when all have some, nobody counts.
            missing += [prefix + name for name in (expected - written or expected)]
        return sorted(missing)


def check_coverage(which: str, missing: Sequence[str]) -> None:
    """Raises ParametersMissing if there are any."""
    if not missing:
        return
    # A layer that is wrapped for LoRA is one level further down, which the files know nothing of.
    names = ", ".join(name.replace(".base_layer.", ".") for name in missing[:_NAMED_AT_MOST])
    more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
    raise ParametersMissing(f"the checkpoint has not all weights of the {which} model: {names}{more}")


def _is_padded(layer: Any) -> bool:
    """Whether a layer may be larger than what the files have for it: linear layers without quantisation are not."""
    return type(member_of(layer, "quant_method")).__name__ != "UnquantizedLinearMethod"
