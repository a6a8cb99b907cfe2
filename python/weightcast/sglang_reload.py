"""How the weights of one live SGLang model are changed: its layers restored, loaded, and processed once more.

SGLang has one live form of each layer, and loads into it. Layers that the start left as it had created them take new
weights as they are; what it repacked must be restored first, which SGLang 0.5.23 and later can for some layers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from sglang.srt.model_loader import loader as sglang_loader

from .errors import ModelNotReloadable, WeightcastError
from .model_layers import has_base
from .sglang_memory import Places, Weights, load_and_copy_what_is_held
from .sglang_start import Start, Written, start_of
from .vllm_coverage import check_coverage

logger = logging.getLogger(__name__)


class SglangReload:
    """One update of one model. Call `abandon` after any failure: it leaves each layer in the form of its kernels."""

    def __init__(self, which: str, model: Any, dtype: torch.dtype, device: torch.device) -> None:
        """Touches nothing. `which`: `target` or `draft`, for messages. Raises ModelNotReloadable."""
        self._which = which
        self._model = model
        self._dtype = dtype
        self._device = device
        self._begun = False
        self._start = check_reloadable(which, model)
        self._expected: frozenset[Written] = frozenset()
        self._places: Places | None = None

    @property
    def coverage(self) -> str:
        """After `finish`: `complete`, or `unknown` where nobody knows what a checkpoint must have."""
        return "complete" if self._expected else "unknown"

    def load(self, weights: Weights) -> None:
        """Nothing reads the memory of `weights` any more once this has returned."""
        with self._scope():
            if not self._begun:
                self._begin()
            load_and_copy_what_is_held(self._model, weights, self._load)

    def finish(self) -> bool:
        """Whether the model took any of the weights. Raises ParametersMissing."""
        took_any = self._begun and bool(self._start.written)
        if not took_any and self._which == "target":
            raise WeightcastError("the target model took none of the tensors")
        if not self._begun:
            return False
        missing = self._missing()
        # Layers that are processed must not be once more, also if another one fails.
        self._begun = False
        # Nor those of a draft that took nothing, unless they have been restored.
        if took_any or any(_restores(layer) for layer in self._model.modules() if _is_processed(layer)):
            with self._scope():
                _process_layers(self._model, self._device)
        self._put_back()
        check_coverage(self._which, missing)
        return took_any

    def abandon(self) -> None:
        """What was loaded is in the model; there is nothing to go back to."""
        if not self._begun:
            return
        self._begun = False
        try:
            with self._scope():
                _process_layers(self._model, self._device)
            self._put_back()
        except Exception:
            logger.exception("SGLang could not process the %s model after a failed update", self._which)

    def _begin(self) -> None:
        self._begun = True
        self._places = Places(self._model)
        # A draft model has some of its weights from the target, which its own checkpoint may have too.
        if self._which == "target":
            self._expected = self._start.expected()
        self._start.begin_loading()
        restore = getattr(sglang_loader.DefaultModelLoader, "restore_weights_before_loading", None)
        if restore is not None:
            restore(self._model, self._device)
        self._start.watch_loaders(self._model)

    def _load(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        name_of = getattr(getattr(self._model, "quant_config", None), "get_name", None)
        load_only = getattr(sglang_loader.DefaultModelLoader, "load_weights_only", None)
        # SGLang renames the scales of this one on their way to the model. For the others that is the model's own
        # function with questions about memory around it, which take longer than a bucket.
        if load_only is not None and name_of is not None and name_of() == "mxfp8":
            load_only(self._model, weights, self._device)
        else:
            self._model.load_weights(weights)

    def _put_back(self) -> None:
        if self._places is not None:
            self._places.put_back()
            self._places = None

    def _missing(self) -> list[str]:
        missing = self._expected - self._start.written
        return sorted(f"{name} ({', '.join(parts)})" if parts else name for name, *parts in missing)

    @contextlib.contextmanager
    def _scope(self) -> Iterator[None]:
        """Layers make tensors of the model's type on the worker's device while they load."""
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)
        try:
            with torch.no_grad(), _current(self._device):
                yield
        finally:
            torch.set_default_dtype(dtype)


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _process_layers(model: Any, device: torch.device) -> None:
    """As SGLang's loader does after it has loaded; `post_load_weights` it leaves to the models' `load_weights`."""
    process = getattr(sglang_loader.DefaultModelLoader, "postprocess_weights", None)
    if process is not None:
        process(model, device)
        return
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if method is not None:
            with sglang_loader.device_loading_context(layer, device):
                method.process_weights_after_loading(layer)


def check_reloadable(which: str, model: Any) -> Start:
    """What the start of a model showed. Raises ModelNotReloadable for what no update can reload."""
    if getattr(model, "flash_rl_initial_load_complete", False):
        raise ModelNotReloadable(
            f"SGLang reloads the {which} model of --load-format flash_rl in a way of its own, which nobody has tried "
            "bucket by bucket"
        )
    start = start_of(model)
    if start is None:
        raise ModelNotReloadable(
            f"the {which} model was made before SGLang loaded the plug-in, which so has not seen its start"
        )
    for layer in model.modules():
        if _is_processed(layer):
            _check_layer(which, layer, start)
    return start


def check_proven(which: str, model: Any) -> None:
    """Raises ModelNotReloadable for layers that may end up wrong, of a model that `check_reloadable` has let through."""
    start = start_of(model)
    for layer in model.modules():
        changes = None if start is None or not _is_processed(layer) else start.changes_of(layer)
        if changes is None or not changes.content or _computes_scales_anew(layer) or _restores(layer):
            continue
        raise ModelNotReloadable(
            f"{_named(which, layer, start)} is changed in place by SGLang after loading, and may end up wrong after a "
            f"second time: {', '.join(changes.content)}; give answers to compare with, or accept what is unproven "
            "(acceptUnproven)"
        )


def _is_processed(layer: Any) -> bool:
    """Wrappers for LoRA show the method of the layer that they wrap, and their parameters are that layer's."""
    return getattr(layer, "quant_method", None) is not None and not hasattr(layer, "base_layer")


def _computes_scales_anew(layer: Any) -> bool:
    """What it makes of its scales is the same each time, whether the files have them or not."""
    return has_base(type(layer.quant_method), "BaseKVCacheMethod")


def _named(which: str, layer: Any, start: Start) -> str:
    return f"{start.path_of(layer)} of the {which} model ({type(layer.quant_method).__name__})"


def _check_layer(which: str, layer: Any, start: Start) -> None:
    changes = start.changes_of(layer)
    if changes is not None and _computes_scales_anew(layer):
        return
    what = _named(which, layer, start)
    if changes is None:
        if next(layer.parameters(recurse=False), None) is None:
            return
        raise ModelNotReloadable(
            f"{what} was made ready at the start in a way that weightcast has not seen; start SGLang with another "
            "--load-format"
        )
    if changes.form and not _restores(layer):
        raise ModelNotReloadable(
            f"{what} is repacked by SGLang, which cannot undo it: {', '.join(changes.form)}"
        )


def _restores(layer: Any) -> bool:
    """Whether this SGLang puts the layer back into the form that it was created in, before it loads again."""
    if not hasattr(sglang_loader.DefaultModelLoader, "restore_weights_before_loading"):
        return False
    restores = _own_restore(layer.quant_method)
    # Methods with schemes leave it to those.
    scheme = getattr(layer, "scheme", None)
    return restores and (scheme is None or _own_restore(scheme))


def _own_restore(holder: Any) -> bool:
    """Whether its class has more than the function of the base class, which does nothing."""
    definitions = [kind for kind in type(holder).__mro__ if "restore_weights_before_loading" in vars(kind)]
    return len(definitions) > 1


