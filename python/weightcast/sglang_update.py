"""One update of the models of an SGLang scheduler, as `POST /update_weights_from_ipc` asks for it."""

from __future__ import annotations

import contextlib
import logging
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import zmq

from .errors import EngineAsleep, EngineBusy, ModelNotReloadable, WeightcastError
from .messages import Open
from .receive import receive_weights
from .sglang_reload import SglangReload, check_proven, check_reloadable
from .vllm_update import uuid_of_device

logger = logging.getLogger(__name__)

_OUR_ADDRESSES = "ipc://@weightcast-"
# SGLang imports it for each update, and needs checkpoint-engine for it.
_EXTENSION = "sglang.srt.checkpoint_engine.checkpoint_engine_worker"
_WEIGHTS = "weights"
"""SGLang's tag of what /release_memory_occupation released."""


def update_weights(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    """Stands around the method by which a scheduler updates its models: the target, then each draft model.

    `request.zmq_handles`: device uuid to the address of the link on that device. An update over another link than ours
    is SGLang's own affair. What goes wrong on any rank of the tensor-parallel group is the answer of all of them.
    """
    if not any(address.startswith(_OUR_ADDRESSES) for address in request.zmq_handles.values()):
        return original(manager, request)
    refusal = _refusal(manager, request)
    willing, message = _of_all_ranks(manager.tp_cpu_group, refusal is None, refusal or "")
    if not willing:
        logger.error("the update is refused: %s", message)
        return _answer(False, message)
    with _extension(_runners_of(manager), _exchanges_of(manager)) as reports:
        output = original(manager, request)
        if output.success and request.flush_cache:
            _drop_embeddings()
    message = f"weightcast: {'; '.join(reports)}" if output.success else output.message
    return _answer(*_of_all_ranks(manager.tp_cpu_group, output.success, message))


def _refusal(manager: Any, request: Any) -> str | None:
    """Why this rank's models cannot be updated. Touches nothing."""
    try:
        # SGLang finds that out when the weights have changed, which ends the scheduler.
        is_idle = getattr(manager, "is_fully_idle", None)
        if request.flush_cache and is_idle is not None and not is_idle():
            raise EngineBusy(
                "requests run or wait in this engine, so that its cache cannot be flushed: pause it with abort, or do not reset the cache"
            )
        if _WEIGHTS in manager.offload_tags:
            raise EngineAsleep(
                "the engine's weights are released: POST /resume_memory_occupation with the tag weights first"
            )
        # SGLang raises this in the middle of an update, which ends the scheduler.
        check_cache = getattr(manager, "_assert_weight_cache_inactive", None)
        if check_cache is not None:
            check_cache("update_weights_from_ipc")
        for runner in _runners_of(manager):
            check_reloadable(_which(runner), runner.model)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _runners_of(manager: Any) -> list[Any]:
    """Of the target, and of the drafts as far as this version says what it updates."""
    select = getattr(manager, "_select_runners", None)
    if select is not None:
        return [runner for _, runner in select()]
    runners = [manager.tp_worker.model_runner]
    if manager.draft_worker is None:
        return runners
    for name in ("draft_worker", "_draft_worker"):
        inner = getattr(manager.draft_worker, name, None)
        drafts = getattr(inner, "draft_runners", None) or getattr(inner, "draft_runner_list", None)
        if drafts is not None:
            return [*runners, *drafts]
        if getattr(inner, "draft_runner", None) is not None:
            return [*runners, inner.draft_runner]
    return runners


def _exchanges_of(manager: Any) -> int | None:
    """How often SGLang takes the weights in one update. None where an older version has drafts of a kind of its own."""
    runners = _runners_of(manager)
    is_known = hasattr(manager, "_select_runners") or manager.draft_worker is None or len(runners) > 1
    return len(runners) if is_known else None


def _check_exchanges(sent: int | None, taken: int | None) -> None:
    """Raises ModelNotReloadable: one of both sides would wait for the other in vain, with the target's weights changed."""
    if sent is None or taken is None or sent == taken:
        return
    drafts = f"{taken - 1} draft models take" if taken > 2 else "its draft model takes" if taken == 2 else "no draft model takes"
    remedy = {
        1: "leave hasDraftModel (--draft-model) out",
        2: "tell the cluster hasDraftModel: true (--draft-model)",
    }.get(taken, "weightcast updates one at most")
    raise ModelNotReloadable(f"beside the target of this SGLang {drafts} the weights: {remedy}")


def _which(runner: Any) -> str:
    return "draft" if runner.is_draft_worker else "target"


def _drop_embeddings() -> None:
    """Of images, which the old weights computed: SGLang keeps them when it flushes its cache."""
    cache = getattr(sys.modules.get("sglang.srt.managers.mm_utils"), "embedding_cache", None)
    if cache is not None:
        cache.clear()


def _answer(success: bool, message: str) -> Any:
    from sglang.srt.managers.io_struct import UpdateWeightsFromIPCReqOutput

    return UpdateWeightsFromIPCReqOutput(success=success, message=message)


def _of_all_ranks(group: Any, success: bool, message: str) -> tuple[bool, str]:
    """Only the first rank's answer reaches whoever asked."""
    ranks = torch.distributed.get_world_size(group) if torch.distributed.is_initialized() else 1
    if ranks == 1:
        return success, message
    outcomes: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(outcomes, (success, message), group=group)
    failures = [f"rank {rank}: {said}" for rank, (succeeded, said) in enumerate(outcomes) if not succeeded]
    return (False, "; ".join(failures)) if failures else (success, message)


@contextlib.contextmanager
def _extension(runners: Sequence[Any], exchanges: int | None) -> Iterator[list[str]]:
    """SGLang finds our class where it looks for the one that needs checkpoint-engine. What was installed is listed.

    `runners`: all that the update goes to; `exchanges`: how many there are, if that is known.
    """
    reports: list[str] = []

    class WorkerExtension:
        def __init__(self, runner: Any) -> None:
            self._runner = runner

        def update_weights_from_ipc(self, links: dict[str, str]) -> None:
            try:
                reports.append(install_weights(links, self._runner, runners, exchanges))
            except Exception as error:
                # SGLang answers with the text alone, and many an assertion has none.
                raise WeightcastError(f"{type(error).__name__}: {error}") from error

    module = types.ModuleType(_EXTENSION, "weightcast in the place of checkpoint-engine's half of SGLang.")
    vars(module)["SGLangCheckpointEngineWorkerExtensionImpl"] = WorkerExtension
    theirs = sys.modules.get(_EXTENSION)
    sys.modules[_EXTENSION] = module
    try:
        yield reports
    finally:
        if theirs is not None:
            sys.modules[_EXTENSION] = theirs
        else:
            del sys.modules[_EXTENSION]


def install_weights(links: dict[str, str], runner: Any, runners: Sequence[Any], exchanges: int | None) -> str:
    """Receives one set of weights for the model of an SGLang model runner, and installs it. `runners`: this and all others
    that the same update goes to; nothing is loaded into the first one if it would be refused by another, or if the rank sends
    the weights more or less often than they are taken.

    What `receive_weights` says of digests and errors holds here. Returns what came and what became of it, for people.
    """
    which = _which(runner)
    device = torch.device(runner.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    uuid = _uuid_of(device, links)
    if uuid not in links:
        raise WeightcastError(f"no worker link for device {uuid}; there are links for {sorted(links)}")
    reload = SglangReload(which, runner.model, runner.model_config.dtype, device)
    took_any = False

    def begin(request: Open) -> None:
        _check_exchanges(request.exchanges, exchanges)
        if not request.accept_unproven:
            for one in runners:
                check_proven(_which(one), one.model)

    def finish() -> None:
        nonlocal took_any
        took_any = reload.finish()

    try:
        received = receive_weights(
            zmq.Context.instance(),
            links[uuid],
            device=device,
            device_uuid=uuid,
            load_weights=reload.load,
            post_hook=finish,
            begin=begin,
        )
    finally:
        reload.abandon()
    what = f"coverage {reload.coverage}" if took_any else "took none of the tensors"
    logger.info("%s is installed in the %s model, %d tensors: %s", received.version, which, received.tensors, what)
    return f"{received.version} in the {which} model, {what}"


def _uuid_of(device: torch.device, links: dict[str, str]) -> str:
    if device.type == "cuda":
        return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return uuid_of_device(device, links)
