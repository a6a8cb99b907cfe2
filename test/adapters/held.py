"""What a reference engine holds, compared with tensors of torch."""

import json
import urllib.request

import torch

from weightcast.torch_digest import TorchDigester


def check_held(endpoint, tensors):
    """Fails unless the engine's workers together hold exactly these tensors, by name, bit for bit."""
    held = {}
    for worker in _call(endpoint, "weight_digests"):
        for name, digest, part, parts in zip(*(worker[key] for key in ("names", "digests", "part", "parts"))):
            held.setdefault(name, {})[part] = (int(digest, 16), parts)
    assert held.keys() == tensors.keys(), held.keys() ^ tensors.keys()
    for name, tensor in tensors.items():
        parts = held[name]
        assert all(len(parts) == count for _, count in parts.values()), f"{name}: {parts}"
        # Digests of the parts of a tensor add up to its own.
        assert sum(digest for digest, _ in parts.values()) % 2**64 == _digest(tensor), f"{name} differs"


def _digest(tensor):
    digester = TorchDigester(torch.device("cpu"))
    digester.add([tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)])
    return int.from_bytes(digester.words(), "little")


def _call(endpoint, method):
    body = json.dumps({"method": method, "args": [], "timeout": 60}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/collective_rpc", body)) as answer:
        return json.load(answer)["results"]
