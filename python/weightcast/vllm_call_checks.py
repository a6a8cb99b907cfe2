"""What vLLM checks at the end of each call of `load_weights`, as if there were no other: an update may have one for each bucket."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

_VALIDATION = "vllm.model_executor.model_loader.mtp_validation"
_INCOMPLETE = re.compile(r"MTP speculative decoding layer \d+ weights missing from checkpoint")
_LOADERS = "vllm.model_executor.models.utils"
_CHECK = "_check_skipped_aliases"


class CallChecks:
    """Of one update of one model."""

    def __init__(self) -> None:
        # By the identity of the module that a loader is for, which its names are of.
        self._skipped: set[tuple[int, str]] = set()
        self._loaded: set[tuple[int, str]] = set()
        # Of these vLLM does not know all that was loaded.
        self._incomplete: set[int] = set()

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Around one `load_weights`."""
        with _partial_layers(), self._aliases_noted():
            yield

    def missing(self) -> list[str]:
        """Names of tied parameters whose second name the files had, and not the first. When all is loaded."""
        lacking = self._skipped - self._loaded
        return sorted({name for module, name in lacking if module not in self._incomplete})

    @contextlib.contextmanager
    def _aliases_noted(self) -> Iterator[None]:
        """A vLLM that passes over the second name of a tied parameter wants to see the first one in the same call."""
        # Models that load by it have imported it.
        loader = getattr(sys.modules.get(_LOADERS), "AutoWeightsLoader", None)
        check = getattr(loader, _CHECK, None)
        if check is None:
            yield
            return
        setattr(loader, _CHECK, lambda one, loaded: self._note(one, loaded))
        try:
            yield
        finally:
            setattr(loader, _CHECK, check)

    def _note(self, loader: Any, loaded: set[str]) -> None:
        module = id(loader.module)
        self._loaded |= {(module, name) for name in loaded}
        self._skipped |= {(module, name) for name in loader._skipped_aliases.values()}
        if not getattr(loader, "_loaded_params_are_complete", True):
            self._incomplete.add(module)


@contextlib.contextmanager
def _partial_layers() -> Iterator[None]:
    """Layers of a checkpoint that draft (MTP): a bucket may end within one, or have nothing of it."""
    # Models that ask it have imported it.
    validation = sys.modules.get(_VALIDATION)
    if validation is not None:
        with validation.disable_mtp_completeness_check():
            yield
        return
    try:
        yield
    except ValueError as error:
        # vLLM 0.22 looks when all that it was given is loaded.
        if _INCOMPLETE.match(str(error)) is None:
            raise
