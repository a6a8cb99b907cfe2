"""What SGLang finds by the entry point `sglang.srt.plugins` in each of its processes.

It hooks three things of the processes that hold a model: the start of a model, to see what the start does with it, the
update that `POST /update_weights_from_ipc` asks for, which is ours if its addresses are, and the answer to `GET /server_info`,
by which we hear before a pause what an update would be refused for. An update over
checkpoint-engine's link is left to SGLang. SGLANG_PLUGINS, if it is set, must name `weightcast`.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_SCHEDULER = "sglang.srt.managers.scheduler"
# By version, newest first: the module and the method in it that a scheduler's updates go through.
_UPDATES = (
    (
        "sglang.srt.managers.scheduler_components.weight_updater",
        "SchedulerWeightUpdaterManager.update_weights_from_ipc",
    ),
    ("sglang.srt.managers.scheduler_update_weights_mixin", "SchedulerUpdateWeightsMixin.update_weights_from_ipc"),
)


def register() -> None:
    """Never raises: an engine that does not use weightcast starts all the same."""
    # Schedulers hold the models, and have SGLang's module imported by now. In other processes the hooks' targets would
    # have to be imported first, which takes seconds.
    if _SCHEDULER not in sys.modules:
        return
    try:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        update = next((f"{module}.{method}" for module, method in _UPDATES if _exists(module)), None)
        if update is None:
            logger.warning("this SGLang has no update that weightcast knows; weightcast cannot change its weights")
            return
        HookRegistry.register(update, _update, HookType.AROUND)
        loader = "sglang.srt.model_loader"
        HookRegistry.register(f"{loader}.loader._initialize_model", _model_was_made, HookType.AFTER)
        HookRegistry.register(f"{loader}.weight_utils.default_weight_loader", _load_whole, HookType.AROUND)
        HookRegistry.register(f"{_SCHEDULER}.Scheduler.get_internal_state", _say_state, HookType.AFTER)
    except Exception:
        logger.exception("weightcast is no plug-in of this SGLang")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _update(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    from .sglang_update import update_weights

    return update_weights(original, manager, request)


def _say_state(output: Any, scheduler: Any, *_request: Any) -> None:
    from .sglang_state import add_state

    add_state(output, scheduler)


def _model_was_made(model: Any, _model_config: Any = None, load_config: Any = None, *_rest: Any, **named: Any) -> None:
    from .sglang_start import watch_start

    try:
        watch_start(model, load_config if load_config is not None else named.get("load_config"))
    except Exception:
        logger.exception("weightcast has not seen the start of this model, and will refuse to update it")


def _load_whole(original: Callable[..., Any], parameter: Any, *values: Any, **named: Any) -> Any:
    from .sglang_start import note_written

    result = original(parameter, *values, **named)
    note_written(parameter)
    return result
