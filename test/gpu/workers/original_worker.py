"""checkpoint-engine's own `checkpoint_engine/worker.py`, unmodified; commands as in engine_stub.py.

Usage: original_worker.py <path of worker.py> <device: cpu, cuda:N, or fake-cuda>

The file is run as it is. It belongs to a package that imports much else, so the one module that it needs of it stands
here in its place: which device library to use. Without a GPU, memory of the host is mapped where torch would open a
CUDA IPC handle.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import types
from typing import Any

import torch
import zmq
from engine_stub import RecordingModel, device_of, map_host_memory, serve


def device_library(device: torch.device) -> Any:
    if device.type == "cuda":
        return torch.cuda

    def nothing() -> None:
        pass

    return types.SimpleNamespace(synchronize=nothing, ipc_collect=nothing, empty_cache=gc.collect)


def rebuild_host_tensor(*arguments: Any) -> torch.Tensor:
    """In the place of torch's `rebuild_cuda_tensor`, with its fifteen arguments."""
    tensor_class, size, stride, offset, storage_class, dtype, _device, handle, *rest = arguments
    storage_bytes, storage_offset, requires_grad, counter, counter_offset, event, event_required = rest
    assert (tensor_class, storage_class, dtype) == (torch.Tensor, torch.storage.TypedStorage, torch.uint8)
    assert (size, stride, offset) == ((storage_bytes,), (1,), 0) and storage_offset == 0
    assert (requires_grad, counter, counter_offset, event, event_required) == (False, b"", 0, b"", False)
    return map_host_memory(handle, storage_bytes)


def load_original(path: str, device: torch.device) -> Any:
    device_utils = types.ModuleType("checkpoint_engine.device_utils")
    device_utils.DeviceManager = lambda: types.SimpleNamespace(device_module=device_library(device))
    device_utils.npu_generate_uuid = None
    package = types.ModuleType("checkpoint_engine")
    package.__path__ = []
    sys.modules |= {"checkpoint_engine": package, "checkpoint_engine.device_utils": device_utils}
    spec = importlib.util.spec_from_file_location("checkpoint_engine.worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    path, device = sys.argv[1], device_of(sys.argv[2])
    if device.type == "cpu":
        torch.multiprocessing.reductions.rebuild_cuda_tensor = rebuild_host_tensor
    else:
        torch.cuda.set_device(device)
    original = load_original(path, device)
    context = zmq.Context()
    model = RecordingModel()

    def update(links: dict[str, str]) -> None:
        (address,) = links.values()
        original.update_weights_from_ipc(
            context, address, device.index or 0, run=model.load_weights, post_hook=model.post_hook
        )

    serve(model, update)


main()
