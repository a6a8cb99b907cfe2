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

from .errors import EngineAsleep, EngineBusy, WeightcastError
from .installed_versions import is_changing, is_installed
from .messages import Open
from .receive import receive_weights
from .sglang_reload import SglangReload, check_proven, check_reloadable
from .sglang_runners import check_exchanges, exchanges_of, runners_of, which, without_unreachable_drafts
from .vllm_update import uuid_of_device

logger = logging.getLogger(__name__)

_OUR_ADDRESSES = "ipc://@weightcast-"
# SGLang imports it for each update, and needs checkpoint-engine for it.
_EXTENSION = "sglang.srt.checkpoint_engine.checkpoint_engine_worker"
_WEIGHTS = "weights"
"""SGLang's tag of what /release_memory_occupation released."""


def update_weights(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    """Stands around the method by which a scheduler updates its models: the target, then all draft models.

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
    with (
        _extension(runners_of(manager), exchanges_of(manager)) as reports,
        without_unreachable_drafts(manager),
    ):
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
        check_manager(manager)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def check_manager(manager: Any) -> None:
    """Whether its models can be updated, idle or not. Raises EngineAsleep, ModelNotReloadable, and what SGLang does."""
    if are_weights_released(manager):
        raise EngineAsleep(
            "the engine's weights are released: POST /resume_memory_occupation with the tag weights first"
        )
    # SGLang raises this in the middle of an update, which ends the scheduler.
    check_cache = getattr(manager, "_assert_weight_cache_inactive", None)
    if check_cache is not None:
        check_cache("update_weights_from_ipc")
    for runner in runners_of(manager):
        check_reloadable(which(runner), runner.model)


def are_weights_released(manager: Any) -> bool:
    return _WEIGHTS in manager.offload_tags


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

    `runners`: all that the update goes to; `exchanges`: how often they take the weights, if that is known.
    """
    reports: list[str] = []
    drafts = [runner for runner in runners if runner.is_draft_worker]

    class WorkerExtension:
        def __init__(self, runner: Any) -> None:
            self._runner = runner

        def update_weights_from_ipc(self, links: dict[str, str]) -> None:
            # All drafts of a model with a layer for each step take the weights when the first one is asked to.
            loaded = (drafts if self._runner.is_draft_worker else []) or [self._runner]
            if self._runner is not loaded[0]:
                return
            try:
                reports.append(install_weights(links, loaded, runners, exchanges))
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


def install_weights(
    links: dict[str, str], loaded: Sequence[Any], runners: Sequence[Any], exchanges: int | None
) -> str:
    """Receives one set of weights for the models of the SGLang model runners `loaded`, and installs it. `runners`: these and all
    others that the same update goes to; nothing is loaded into the first ones if it would be refused by another, or if the rank
    sends the weights more or less often than they are taken.

    What `receive_weights` says of digests and errors holds here. Returns what came and what became of it, for people.
    """
    device = torch.device(loaded[0].device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    uuid = _uuid_of(device, links)
    if uuid not in links:
        raise WeightcastError(f"no worker link for device {uuid}; there are links for {sorted(links)}")
    reloads = [SglangReload(which(one), one.model, one.model_config.dtype, device) for one in loaded]
    took: list[bool] = []

    def begin(request: Open) -> None:
        check_exchanges(request.exchanges, exchanges)
        if not request.accept_unproven:
            for one in runners:
                check_proven(which(one), one.model)

    def load(weights: list[tuple[str, torch.Tensor]]) -> None:
        is_changing(one.model for one in loaded)
        for reload in reloads:
            reload.load(weights)

    def finish() -> None:
        took.extend(reload.finish() for reload in reloads)

    try:
        received = receive_weights(
            zmq.Context.instance(),
            links[uuid],
            device=device,
            device_uuid=uuid,
            load_weights=load,
            post_hook=finish,
            begin=begin,
        )
    finally:
        for reload in reloads:
            reload.abandon()
    is_installed((one.model for one in loaded), received.version)
    coverage = "complete" if all(reload.coverage == "complete" for reload in reloads) else "unknown"
    what = f"coverage {coverage}" if any(took) else "took none of the tensors"
    models = f"{which(loaded[0])} model" if len(loaded) == 1 else f"{len(loaded)} draft models"
    logger.info("%s is installed in the %s, %d tensors: %s", received.version, models, received.tensors, what)
    return f"{received.version} in the {models}, {what}"


def _uuid_of(device: torch.device, links: dict[str, str]) -> str:
    if device.type == "cuda":
        return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return uuid_of_device(device, links)
