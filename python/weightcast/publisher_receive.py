"""The tensors of a completed version, in another process of the host."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .client import Client
from .client_errors import CheckpointError, DeadlineError, UsageError

#: Between two looks whether the version is there.
_PAUSE_SECONDS = 0.02


def receive(client: Client, checkpoint: str, version: Optional[str], timeout: float) -> Iterator[Tuple[str, Any]]:
    """See `Publisher.receive`."""
    files, found = _locked(client, checkpoint, version, time.monotonic() + timeout)
    try:
        for descriptor in files:
            yield from _tensors(descriptor, found)
    finally:
        _let_go(files)


def _locked(client: Client, checkpoint: str, version: Optional[str], end: float) -> Tuple[List[int], str]:
    """The files of the version, which nobody writes until they are closed, and what it is called."""
    while True:
        known = client.checkpoint_files(checkpoint)
        if known is not None and (version is None or known["version"] == version):
            descriptors = _opened(known["files"])
            # Only what is registered now, while it cannot be written, is whole.
            if descriptors and client.checkpoint_files(checkpoint) == known:
                return descriptors, known["version"] or checkpoint
            _let_go(descriptors)
        if time.monotonic() > end:
            raise DeadlineError(f"version {version or 'of ' + checkpoint} is not there; the daemon has {_words(known)}")
        time.sleep(_PAUSE_SECONDS)


def _words(known: Optional[Dict[str, Any]]) -> str:
    return "none" if known is None else str(known["version"])


def _opened(paths: List[str]) -> List[int]:
    """None of them if one is gone, or is being written. Raises `UsageError` for a directory."""
    for path in paths:
        if path.endswith(".device"):
            raise UsageError(f"{path} has its tensors in the memory of a device, where only ranks on it read them")
        if os.path.isdir(path):
            raise UsageError(f"{path} is a directory; what can be received is a version of a publisher, or a list of files")
    descriptors: List[int] = []
    try:
        for path in paths:
            descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            fcntl.flock(descriptors[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        _let_go(descriptors)
        return []
    return descriptors


def _let_go(descriptors: List[int]) -> None:
    for descriptor in descriptors:
        # A process that was forked meanwhile has the file open too: closing it here does not unlock it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _tensors(descriptor: int, version: str) -> Iterator[Tuple[str, Any]]:
    try:
        memory = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        start = 8 + int.from_bytes(memory[:8], "little")
        header = json.loads(bytes(memory[8:start]))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"version {version}: {error}") from error
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, last = entry["data_offsets"]
        yield name, _tensor(name, entry["dtype"], entry["shape"], memory[start + begin : start + last])


def _tensor(name: str, dtype: str, shape: List[int], data: memoryview) -> Any:
    try:
        import torch
    except ImportError:
        return dtype, shape, data
    from .tensor_files import torch_name

    kind = getattr(torch, torch_name(dtype) or "", None)
    if kind is None:
        raise UsageError(f"tensor {name}: torch {torch.__version__} has no dtype {dtype}")
    if data.nbytes == 0:
        return torch.empty(shape, dtype=kind)
    import warnings

    with warnings.catch_warnings():
        # That it must not be written is said above.
        warnings.simplefilter("ignore")
        return torch.frombuffer(data, dtype=kind).reshape(shape)
