"""The rank's side of an exchange, on a host device, for tests that are all in Python."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
import torch
import zmq

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3", torch.int64: "I64"}
_SECONDS = 60
_DEVICE = "HOST-0"


class FakeRank:
    """Sends tensors, or of some of them a part. One exchange at a time, each on a link of its own."""

    def __init__(self, size: int = 1 << 16) -> None:
        self.folder = tempfile.mkdtemp(prefix="weightcast-device-", dir="/dev/shm")
        self.path = os.path.join(self.folder, "allocation-1")
        with open(self.path, "wb") as file:
            file.truncate(size)
        self.size = size
        self.context = zmq.Context()
        self.replies: list[dict[str, Any]] = []
        self._links = 0

    def close(self) -> None:
        self.context.destroy(linger=0)
        shutil.rmtree(self.folder)

    def send(
        self,
        buckets: Sequence[Mapping[str, torch.Tensor]],
        take: Callable[[dict[str, str]], Any],
        cuts: Mapping[str, Sequence[int]] | None = None,
        stop_after: int | None = None,
        **opening: Any,
    ) -> dict[str, Any]:
        """`take` is the worker's side, of a link by device. `cuts`: of what comes in parts, (dim, start, length). `stop_after`: so many answers it hangs up. `opening`: of the first request. Returns the reply to `finish`; raises what
        `take` raises."""
        self._links += 1
        address = f"ipc://{self.folder}/link-{self._links}"
        socket = self.context.socket(zmq.REQ)
        socket.setsockopt(zmq.RCVTIMEO, _SECONDS * 1_000)
        socket.bind(address)
        self.replies = []
        thread = threading.Thread(target=self._exchange, args=(socket, buckets, cuts or {}, stop_after, opening))
        thread.start()
        try:
            take({_DEVICE: address})
        finally:
            thread.join()
        return self.replies[-1]

    def _exchange(
        self, socket: zmq.Socket, buckets: Any, cuts: Any, stop_after: int | None, opening: dict[str, Any]
    ) -> None:
        first = {
            "type": "open",
            "protocol": 2,
            "device": _DEVICE,
            "epoch": 1,
            "version": "a@b",
            "handle": self.path.encode(),
            "bytes": self.size,
            "report": True,
            **opening,
        }
        loads = ({"type": "load", "tensors": self._write(bucket, cuts)} for bucket in buckets)
        try:
            # Each bucket is written when the one before is answered.
            for request in itertools.chain([first], loads, [{"type": "release"}, {"type": "finish"}]):
                socket.send(msgpack.packb(request))
                self.replies.append(msgpack.unpackb(socket.recv()))
                if not self.replies[-1]["ok"] or len(self.replies) == stop_after:
                    return
        finally:
            socket.close(linger=0)

    def _write(self, bucket: Mapping[str, torch.Tensor], cuts: Any) -> list[dict[str, Any]]:
        """Everything else in the buffer is what no tensor has."""
        entries, end = [], 0
        with open(self.path, "r+b") as file, mmap.mmap(file.fileno(), self.size) as memory:
            memory[:] = b"\xa5" * self.size
            for name, tensor in bucket.items():
                entry = {
                    "name": name,
                    "dtype": NAMES[tensor.dtype],
                    "shape": list(tensor.shape),
                    "offset": end,
                }
                if name in cuts:
                    entry["part"] = list(cuts[name])
                    tensor = tensor.narrow(*cuts[name])
                data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                memory[end : end + len(data)] = data
                end += -(-len(data) // 256) * 256
                entries.append(entry)
        return entries


def kept_of(reply: dict[str, Any]) -> tuple[str, list[tuple[int, int, int]]]:
    """The token, and a cut for each tensor."""
    kept = reply["kept"]
    dims = kept["dims"]
    starts, lengths = (struct.unpack(f"<{len(dims)}I", kept[key]) for key in ("starts", "lengths"))
    return kept["token"], list(zip(dims, starts, lengths, strict=True))


def digests_of(reply: dict[str, Any]) -> list[int]:
    digests = reply["report"]["digests"]
    return list(struct.unpack(f"<{len(digests) // 8}Q", digests))
