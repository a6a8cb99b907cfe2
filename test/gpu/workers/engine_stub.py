"""An engine worker without an engine: it takes weights as it is told to, and says what it then holds.

For both worker links, on a GPU and on a host device. Reads commands from standard input, a JSON object a line, and
writes what happens to standard output in the same way:

    {"links": {uuid: address}, "fault": …}  → {"asked": "load", "bucket": 1, "names": […]} for each bucket,
                                              then {"ended": "installed", …} or {"ended": <error class>, "message": …}
    {"compare": <path>}                     → {"equal": <count>, "wrong": [<name>, …]}

`fault`: {"at": <bucket, from 1, or "post-hook">, "does": "raise" | "die" | "hang" | "keep"}.

The file to compare with is JSON, `{"data": <path>, "tensors": [{name, dtype, shape, offset, bytes}]}`: dtype as torch
names it, offset and bytes in the file `data`. Bytes are compared where they lie, on the device.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


class RecordingModel:
    """Keeps a copy of every tensor that it is given."""

    def __init__(self, announce: bool = True) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.fault: dict[str, Any] | None = None
        self._announce = announce
        self._buckets = 0

    def begin(self, fault: dict[str, Any] | None) -> None:
        self.tensors = {}
        self.fault = fault
        self._buckets = 0

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        weights = list(weights)
        self._buckets += 1
        if self._announce:
            tell(asked="load", bucket=self._buckets, names=[name for name, _ in weights])
        kept = self._misbehave(self._buckets)
        for name, tensor in weights:
            self.tensors[name] = tensor if kept else tensor.clone()

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
        if held is None or str(held.dtype) != f"torch.{row['dtype']}" or list(held.shape) != row["shape"]:
            return False
        held_bytes = held.contiguous().reshape(-1).view(torch.uint8)
        return torch.equal(held_bytes, data[row["offset"] : row["offset"] + row["bytes"]].to(held.device))


def serve(model: RecordingModel, update: Callable[[dict[str, str]], Any]) -> None:
    """Serves commands until standard input ends."""
    tell(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "compare" in command:
            model.compare(command["compare"])
            continue
        model.begin(command.get("fault"))
        try:
            tell(ended="installed", result=update(command["links"]))
        except Exception as error:
            tell(ended=type(error).__name__, message=str(error))
