"""Which models of an SGLang scheduler an update goes to: the target's, and those of its drafts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from .errors import ModelNotReloadable

logger = logging.getLogger(__name__)


def which(runner: Any) -> str:
    return "draft" if runner.is_draft_worker else "target"


def runners_of(manager: Any) -> list[Any]:
    """Of the target, and of the drafts as far as this version says what it updates."""
    select = getattr(manager, "_select_runners", None)
    if select is not None:
        return [runner for _, runner in select()]
    runners = [manager.tp_worker.model_runner]
    for name in ("draft_worker", "_draft_worker"):
        inner = getattr(manager.draft_worker, name, None)
        drafts = getattr(inner, "draft_runners", None) or getattr(inner, "draft_runner_list", None)
        if drafts is not None:
            return [*runners, *drafts]
        if getattr(inner, "draft_runner", None) is not None:
            return [*runners, inner.draft_runner]
    return runners


def exchanges_of(manager: Any) -> int | None:
    """How often the weights are taken in one update: all draft models take them at once. None where an older version has drafts
    of a kind of its own.
    """
    runners = runners_of(manager)
    is_known = hasattr(manager, "_select_runners") or manager.draft_worker is None or is_out_of_reach(manager)
    return min(len(runners), 2) if is_known or len(runners) > 1 else None


def check_exchanges(sent: int | None, taken: int | None) -> None:
    """Raises ModelNotReloadable: one of both sides would wait for the other in vain, with the target's weights changed."""
    if sent is None or taken is None or sent == taken:
        return
    if taken == 1:
        raise ModelNotReloadable(
            "beside the target of this SGLang no draft model takes the weights: leave hasDraftModel (--draft-model) out"
        )
    raise ModelNotReloadable(
        "beside the target of this SGLang its draft model takes the weights: tell the cluster hasDraftModel: true (--draft-model)"
    )


@contextlib.contextmanager
def without_unreachable_drafts(manager: Any) -> Iterator[None]:
    """SGLang looks for the runners of every draft when the target has its weights, and ends where there are none, as with
    n-grams (which have no weights) and DFlash. Such a draft keeps what it has: it affects how fast the engine answers, not what.
    """
    if not is_out_of_reach(manager):
        yield
        return
    logger.warning("what drafts for this engine keeps its weights, if it has any: SGLang has no way to change them")
    draft_worker, manager.draft_worker = manager.draft_worker, None
    try:
        yield
    finally:
        manager.draft_worker = draft_worker


def is_out_of_reach(manager: Any) -> bool:
    """Whether SGLang's own update of the drafts is bound to fail: the worker stands for drafts that have no runners."""
    if hasattr(manager, "_select_runners") or manager.draft_worker is None or len(runners_of(manager)) > 1:
        return False
    return hasattr(manager.draft_worker, "draft_worker") or not hasattr(manager.draft_worker, "update_weights_from_ipc")
