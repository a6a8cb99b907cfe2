"""Which digester suits a device."""

from __future__ import annotations

import logging

import torch

from .digest import Digester
from .gpu_digest import GpuDigester, KernelError
from .torch_digest import TorchDigester

logger = logging.getLogger(__name__)


def digester_of(device: torch.device) -> Digester:
    """By the kernel on a GPU; in plain torch elsewhere, and where the driver does not take the kernel."""
    if device.type != "cuda":
        return TorchDigester(device)
    try:
        return GpuDigester(device)
    except KernelError as error:
        logger.warning("digests on %s take longer than they need to: %s", device, error)
        return TorchDigester(device)
