"""Layers of a checkpoint that draft (MTP), which vLLM expects whole in each call of `load_weights`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

_VALIDATION = "vllm.model_executor.model_loader.mtp_validation"
_INCOMPLETE = re.compile(r"MTP speculative decoding layer \d+ weights missing from checkpoint")


@contextlib.contextmanager
def partial_loads() -> Iterator[None]:
    """Around one `load_weights`: a bucket may end within a layer, or have nothing of it."""
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
