"""What bench/publisher.ts measures: versions into used memory, each after a memcpy of the same bytes. Prints JSON."""

import ctypes
import json
import mmap
import sys
import time

import torch
import weightcast

given = json.loads(sys.argv[1])
tensors = {f"layers.{index}": torch.randn(size // 4) for index, size in enumerate(given["sizes"])}
total = sum(given["sizes"])
target = mmap.mmap(-1, total)
address = ctypes.addressof(ctypes.c_char.from_buffer(target))


def memcpy():
    offset = 0
    for tensor in tensors.values():
        ctypes.memmove(address + offset, tensor.data_ptr(), tensor.nbytes)
        offset += tensor.nbytes


copies, puts = [], []
with weightcast.connect(given["socket"], start=False, copy_threads=1) as publisher:
    for step in range(given["warmup"] + given["steps"]):
        begun = time.perf_counter()
        memcpy()
        copied = time.perf_counter()
        with publisher.version(f"step-{step}") as version:
            version.put_all(tensors.items())
            put = time.perf_counter()
        if step >= given["warmup"]:
            copies.append(total / (copied - begun) / 1e9)
            puts.append(total / (put - copied) / 1e9)
    files = len(publisher.client.checkpoint_files("policy")["files"])
print(json.dumps({"copies": copies, "puts": puts, "files": files}))
