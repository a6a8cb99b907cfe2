"""An engine worker without an engine: it takes weights as it is told to, and says what it then holds.

For both worker links, on a GPU and on a host device. Reads commands from standard input, a JSON object a line, and
writes what happens to standard output in the same way:

    {"links": {uuid: address}, …}           → {"asked": "load", "bucket": 1, "names": […]} for each bucket,
                                              then {"ended": "installed", …} or {"ended": <error class>, "message": …}
    {"compare": <path>}                     → {"equal": <count>, "wrong": [<name>, …]}

`links` may come with

- `quiet`: nothing is said of each bucket, but in the end when each was loaded: `loads`, pairs of milliseconds of the
  monotonic clock;
- `again`: the weights are taken a second time from the same address, as SGLang does for a draft model;
- `fault`: {"at": <bucket, from 1, or "post-hook">, "does": "raise" | "die" | "hang" | "wait" | "keep"}; `keep` holds on to the
  memory of a bucket.

The file to compare with is JSON, `{"data": <path>, "tensors": [{name, dtype, shape, offset, bytes}]}`: dtype as torch
names it, offset and bytes in the file `data`. Bytes are compared where they lie, on the device.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def device_of(argument: str) -> torch.device:
    """`fake-cuda`: the fake driver of test/native/fixtures, whose memory is the host's."""
    return torch.device("cpu" if argument == "fake-cuda" else argument)


def map_host_memory(handle: bytes, size: int) -> torch.Tensor:
    """Memory of a host device, by its path, or of the fake driver, by the process and the descriptor that hold it."""
    if handle.startswith(b"/"):
        path = handle.decode()
    else:
        process, number = struct.unpack_from("ii", handle)
        path = f"/proc/{process}/fd/{number}"
    descriptor = os.open(path, os.O_RDWR)
    try:
        return torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
    finally:
        os.close(descriptor)


class RecordingModel:
    """Keeps a copy of every tensor that it is given, in the same memory update after update, as a model does.

    `share`: which of how many shares it keeps of each tensor, along its first dimension, if that can be shared out evenly.
    """

    def __init__(self, announce: bool = True, share: tuple[int, int] = (0, 1)) -> None:
        self._share = share
        self.tensors: dict[str, torch.Tensor] = {}
        self.fault: dict[str, Any] | None = None
        self.loads: list[tuple[float, float]] = []
        self._parameters: dict[str, torch.Tensor] = {}
        self._may_announce = announce
        self._announce = announce
        self._buckets = 0

    def begin(self, fault: dict[str, Any] | None = None, quiet: bool = False) -> None:
        self.tensors = {}
        self.fault = fault
        self.loads = []
        self._announce = self._may_announce and not quiet
        self._buckets = 0

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        started = time.monotonic()
        weights = list(weights)
        self._buckets += 1
        if self._announce:
            tell(asked="load", bucket=self._buckets, names=[name for name, _ in weights])
        # Of tensors the worker makes copies.
        self._memory = [tensor.untyped_storage() for _, tensor in weights] if self._misbehave(self._buckets) else []
        for name, tensor in weights:
            self.tensors[name] = self._store(name, tensor)
        self.loads.append((started * 1_000, time.monotonic() * 1_000))

    def _store(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = self._share_of(tensor)
        parameter = self._parameters.get(name)
        if parameter is None or parameter.dtype != tensor.dtype or parameter.shape != tensor.shape:
            parameter = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            self._parameters[name] = parameter
        return parameter.copy_(tensor)

    def _share_of(self, tensor: torch.Tensor) -> torch.Tensor:
        index, count = self._share
        if tensor.dim() == 0 or tensor.shape[0] == 0 or tensor.shape[0] % count != 0:
            return tensor
        return tensor.chunk(count)[index]

    def post_hook(self) -> None:
        tell(asked="post-hook")
        self._misbehave("post-hook")

    def _misbehave(self, at: int | str) -> bool:
        if self.fault is None or self.fault["at"] != at:
            return False
        does = self.fault["does"]
        if does == "raise":
            raise KeyError(f"there is no such parameter in bucket {at}")
        if does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if does == "hang":
            time.sleep(3_600)
        if does == "wait":
            time.sleep(1)
        return does == "keep"

    def compare(self, path: str) -> None:
        with open(path) as file:
            expected = json.load(file)
        data = torch.from_file(expected["data"], size=os.path.getsize(expected["data"]), dtype=torch.uint8)
        wrong = [row["name"] for row in expected["tensors"] if not self._holds(row, data)]
        wrong += sorted(self.tensors.keys() - {row["name"] for row in expected["tensors"]})
        tell(equal=len(expected["tensors"]) - len(wrong), wrong=wrong)

    def _holds(self, row: dict[str, Any], data: torch.Tensor) -> bool:
        held = self.tensors.get(row["name"])
        if held is None or str(held.dtype) != f"torch.{row['dtype']}":
            return False
        expected = data[row["offset"] : row["offset"] + row["bytes"]].clone().view(held.dtype).view(row["shape"])
        expected = self._share_of(expected)
        return held.shape == expected.shape and torch.equal(_bytes_of(held), _bytes_of(expected).to(held.device))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def serve(model: RecordingModel, update: Callable[[dict[str, str]], Any]) -> None:
    """Serves commands until standard input ends."""
    tell(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "compare" in command:
            model.compare(command["compare"])
            continue
        rounds = 2 if command.get("again") else 1
        quiet = command.get("quiet", False)
        try:
            for _ in range(rounds):
                model.begin(command.get("fault"), quiet)
                result = update(command["links"])
            tell(ended="installed", result=result, **({"loads": model.loads} if quiet else {}))
        except Exception as error:
            tell(ended=type(error).__name__, message=str(error))
