"""What rank and engine worker say to each other: `src/engines/worker-link/messages.ts` has the table.

A message is one MessagePack map. Keys that are not known are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from .errors import ProtocolError

PROTOCOL_VERSION = 1


@dataclass(frozen=True)
class Tensor:
    """A tensor in the link buffer. `dtype` as safetensors names it, `offset` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Open:
    protocol: int
    device: str
    epoch: int
    version: str
    handle: bytes
    bytes: int
    report: bool


@dataclass(frozen=True)
class Load:
    tensors: list[Tensor]


@dataclass(frozen=True)
class Release:
    pass


@dataclass(frozen=True)
class Finish:
    pass


@dataclass(frozen=True)
class Abort:
    reason: str


Request = Open | Load | Release | Finish | Abort


def decode_request(frame: bytes) -> Request:
    """Raises ProtocolError."""
    try:
        message = msgpack.unpackb(frame)
    except Exception as error:
        # A pickle, for one: then the rank speaks checkpoint-engine's worker link.
        raise ProtocolError(f"the rank's request is not MessagePack: {error}") from error
    kind = _field(message, "type", str)
    if kind == "open":
        return Open(
            protocol=_count(message, "protocol"),
            device=_field(message, "device", str),
            epoch=_count(message, "epoch"),
            version=_field(message, "version", str),
            handle=_field(message, "handle", bytes),
            bytes=_count(message, "bytes"),
            report=_field(message, "report", bool),
        )
    if kind == "load":
        return Load([_tensor(entry) for entry in _field(message, "tensors", list)])
    if kind == "release":
        return Release()
    if kind == "finish":
        return Finish()
    if kind == "abort":
        return Abort(_field(message, "reason", str))
    raise ProtocolError(f"the rank asks for {kind!r}, which the worker link does not know")


def encode_success() -> bytes:
    return msgpack.packb({"ok": True})


def encode_report(digests: bytes, parts: int) -> bytes:
    """The answer to `finish`: this worker received `parts` tensors, each of them whole.

    `digests`: a little-endian 64-bit word for each tensor, in the order in which they were announced.
    """
    report = {"digests": digests, "part": b"\0\0" * parts, "parts": b"\1\0" * parts}
    return msgpack.packb({"ok": True, "report": report})


def encode_failure(traceback: str) -> bytes:
    return msgpack.packb({"ok": False, "error": traceback})


def _tensor(entry: Any) -> Tensor:
    shape = _field(entry, "shape", list)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ProtocolError(f"the rank sends a tensor of shape {shape}")
    return Tensor(
        name=_field(entry, "name", str),
        dtype=_field(entry, "dtype", str),
        shape=tuple(shape),
        offset=_count(entry, "offset"),
    )


def _field(message: Any, key: str, kind: type) -> Any:
    value = message.get(key) if isinstance(message, dict) else None
    if type(value) is not kind:
        raise ProtocolError(f"the rank's request has the wrong form: {key} is no {kind.__name__}")
    return value


def _count(message: Any, key: str) -> int:
    value = _field(message, key, int)
    if value < 0:
        raise ProtocolError(f"the rank's request has the wrong form: {key} is {value}")
    return value
