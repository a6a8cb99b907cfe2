"""What tests of the publisher give, and look at."""

import os
import struct
import time


def floats(*values):
    return ("F32", [len(values)], struct.pack(f"<{len(values)}f", *values))


def eventually(what, is_so):
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def content(tensor):
    """The bytes of what was received: a tensor of torch where there is torch."""
    if isinstance(tensor, tuple):
        return bytes(tensor[2])
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def shared_files(client):
    directory = client._call("GET", "/v1/status")["daemon"]["shared_directory"]
    return {name: os.stat(os.path.join(directory, name)) for name in os.listdir(directory) if name not in ("lock", "versions.json")}
