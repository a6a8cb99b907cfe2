"""A trainer whose tensors are on a GPU: `trainer.py '{"socket": …, "checkpoint": …, "instances": […]}'`.

Reads commands from standard input, a JSON object a line, and answers with one each:

    {"publish": <version>, "file": <path>}  → {"seconds": …, "bytes": <of its files in host memory>}: the tensors of a
                                              safetensors file, as a version in the memory of the GPU
    {"update": {<options of Publisher.update>}} → {"outcomes": […], "arrived": […], "seconds": …}

What fails is {"error": <class>, "message": …}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
import weightcast
from weightcast.tensor_files import torch_name


def tensors_of(path: str) -> Any:
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = getattr(torch, torch_name(entry["dtype"]))
        if begin == end:
            yield name, torch.empty(entry["shape"], dtype=dtype, device="cuda")
            continue
        flat = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=begin).cuda()
        yield name, flat.view(dtype).view(entry["shape"])


def publish(publisher: Any, command: Any) -> Any:
    tensors = dict(tensors_of(command["file"]))
    torch.cuda.synchronize()
    started = time.monotonic()
    with publisher.version(command["publish"]) as version:
        version.put_all(tensors.items())
        # What was put may be overwritten.
        for tensor in tensors.values():
            tensor.view(torch.uint8).zero_() if tensor.dim() > 0 else tensor.zero_()
    seconds = time.monotonic() - started
    files = publisher.client.checkpoint_files(publisher.checkpoint)["files"]
    return {"seconds": seconds, "bytes": sum(os.stat(path).st_blocks * 512 for path in files)}


def update(publisher: Any, command: Any) -> Any:
    report = publisher.update(**command["update"]).report
    outcomes = [one.outcome for one in report.instances]
    return {"outcomes": outcomes, "arrived": [one.proofs["arrived"] for one in report.instances], "seconds": report.seconds}


def main() -> None:
    given = json.loads(sys.argv[1])
    with weightcast.connect(given["socket"], start=False, checkpoint=given["checkpoint"], on_device=True) as publisher:
        for instance in given["instances"]:
            publisher.add_instance(**instance)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = (publish if "publish" in command else update)(publisher, command)
            except weightcast.client.DaemonError as error:
                answer = {"error": type(error).__name__, "message": str(error)}
            print(json.dumps(answer), flush=True)


main()
