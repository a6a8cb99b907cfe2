"""weightcast's worker extension, and what the bench asks of a worker beside it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from weightcast.live_digests import digests_of
from weightcast.live_tensors import LiveTensors
from weightcast.vllm_drafts import targets_of
from weightcast.worker import VllmWorkerExtension


class MeasuredExtension(VllmWorkerExtension):
    def start_measuring_memory(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def extra_memory(self) -> int:
        """Bytes that this process had allocated at most since it was asked to measure, more than it has now."""
        return torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()

    def hashes(self) -> dict[str, str]:
        """Of each parameter, each buffer and whatever else layers hold of a model and its draft."""
        return {
            f"{target.which} {name}": _hash(tensor)
            for target in targets_of(self)
            for name, tensor in LiveTensors(target.model, {}).by_name.items()
        }

    def held(self) -> dict[str, str]:
        """Of each live tensor, as updates look for them: digest and address."""
        found = [
            (f"{target.which} {name}", tensor)
            for target in targets_of(self)
            for name, tensor in LiveTensors(target.model, {}).by_name.items()
        ]
        words = digests_of(found).word_of()
        return {
            name: f"{word.hex()} {tensor.data_ptr():x}"
            for (name, word), (_, tensor) in zip(words.items(), found, strict=True)
        }


def _hash(tensor: torch.Tensor) -> str:
    # Contiguous, whatever strides dimensions of one element have.
    data = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor).flatten().view(torch.uint8)
    digest = hashlib.blake2b(data.numpy().tobytes(), digest_size=8).hexdigest()
    return f"{digest} {tensor.dtype} {list(tensor.shape)}"
