"""What bench/publisher.ts measures: versions into used memory, each after a plain copy of the same bytes. Prints JSON."""

import ctypes
import json
import mmap
import sys
import time

import torch
import weightcast

given = json.loads(sys.argv[1])
device = given["device"]
total = sum(given["sizes"])
tensors = {f"layers.{index}": torch.randn(size // 4, device=device) for index, size in enumerate(given["sizes"])}
if device == "cuda":
    source = torch.randint(256, (total,), dtype=torch.uint8, device=device)
    pinned = torch.empty(total, dtype=torch.uint8, pin_memory=True)
else:
    target = mmap.mmap(-1, total)
    address = ctypes.addressof(ctypes.c_char.from_buffer(target))


def plain_copy():
    """Of a GPU all bytes in one piece, which is what its link can do."""
    if device == "cuda":
        pinned.copy_(source, non_blocking=True)
        return
    offset = 0
    for tensor in tensors.values():
        ctypes.memmove(address + offset, tensor.data_ptr(), tensor.nbytes)
        offset += tensor.nbytes


def arrived():
    if device == "cuda":
        torch.cuda.synchronize()


copies, puts = [], []
with weightcast.connect(given["socket"], start=False, copy_threads=1) as publisher:
    for step in range(given["warmup"] + given["steps"]):
        arrived()
        begun = time.perf_counter()
        plain_copy()
        arrived()
        copied = time.perf_counter()
        with publisher.version(f"step-{step}") as version:
            version.put_all(tensors.items())
            arrived()
            put = time.perf_counter()
        if step >= given["warmup"]:
            copies.append(total / (copied - begun) / 1e9)
            puts.append(total / (put - copied) / 1e9)
    files = len(publisher.client.checkpoint_files("policy")["files"])
print(json.dumps({"copies": copies, "puts": puts, "files": files}))
