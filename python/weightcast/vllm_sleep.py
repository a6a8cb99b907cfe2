"""Whether the weights of a vLLM are in the device's memory (`/sleep`, `/wake_up`): its allocator in this process knows."""

from __future__ import annotations

import sys
from typing import Any

from .errors import EngineAsleep


def refuse_if_asleep() -> None:
    """Raises EngineAsleep: writing to weights whose memory is unmapped ends the process."""
    for allocation in _weights():
        # Older versions leave no other trace than the copy that level 1 makes.
        if getattr(allocation, "is_asleep", allocation.cpu_backup_tensor is not None):
            raise EngineAsleep("the engine's weights are asleep: wake them first, POST /wake_up?tags=weights")


def are_weights_awake() -> bool:
    """False also where older versions leave no trace, as of level 2: reading what is unmapped ends the process, too."""
    return all(getattr(allocation, "is_asleep", None) is False for allocation in _weights())


def _weights() -> list[Any]:
    allocator = getattr(sys.modules.get("vllm.device_allocator.cumem"), "CuMemAllocator", None)
    allocations = getattr(getattr(allocator, "instance", None), "pointer_to_data", {})
    return [allocation for allocation in allocations.values() if allocation.tag == "weights"]
