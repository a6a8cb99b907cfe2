"""What rank and engine worker say to each other: `src/engines/worker-link/messages.ts` has the table.

A message is one MessagePack map. Keys that are not known are ignored.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import msgpack

from .errors import ProtocolError

PROTOCOL_VERSION = 2
"""1 has no `installed`, `acceptUnproven` and `layouts`. Versions that are one apart understand each other."""

# So that announcements of buckets are not decoded twice.
_LONGEST_ABORT_BYTES = 64 << 10


class Tensor(NamedTuple):
    """A tensor in the link buffer. `dtype` as safetensors names it, `offset` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    part: tuple[int, int, int] | None = None
    """Only `narrow(*part)` of it lies there, packed; `shape` is the whole tensor's."""


@dataclass(frozen=True)
class Open:
    protocol: int
    device: str
    epoch: int
    version: str
    handle: bytes
    bytes: int
    report: bool
    installed: bool = False
    """Report digests of the live tensors too."""
    accept_unproven: bool = False
    """Reload also what is not known to compute with what was loaded."""
    exchanges: int | None = None
    """How often the rank sends all weights in this update, each time for another model. None: it does not say."""
    parts: bool = False
    """The rank can send parts of tensors, to a worker that says what it keeps."""
    kept: str | None = None
    """The rank sends parts by the record of this token, or whole tensors without those of which it says that nothing is kept."""
    silence_seconds: float = 0.0
    """How long the rank may be silent, at least: other workers of the update may keep it waiting."""


@dataclass(frozen=True)
class Load:
    tensors: list[Tensor]


@dataclass(frozen=True)
class Release:
    pass


@dataclass(frozen=True)
class Finish:
    layouts: frozenset[bytes] = frozenset()
    """Layouts of live tensors whose names the rank knows."""


@dataclass(frozen=True)
class Installed:
    """What a worker holds after an update: the engine's `LiveDigests`, and where they may be compared."""

    place: dict[str, str | int]
    coverage: str
    layout: bytes
    words: bytes
    names: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What a worker keeps of each tensor of an exchange: little-endian columns of 8, 32 and 32 bits, as `cuts.Cut` has them."""

    token: str
    dims: bytes
    starts: bytes
    lengths: bytes


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
            installed=_option(message, "installed", bool, False),
            accept_unproven=_option(message, "acceptUnproven", bool, False),
            exchanges=_option(message, "exchanges", int, None),
            parts=_option(message, "parts", bool, False),
            kept=_option(message, "kept", str, None),
            silence_seconds=_seconds(message, "silenceSeconds"),
        )
    if kind == "load":
        return Load([_tensor(entry) for entry in _field(message, "tensors", list)])
    if kind == "release":
        return Release()
    if kind == "finish":
        layouts = _option(message, "layouts", list, [])
        return Finish(frozenset(layout for layout in layouts if type(layout) is bytes))
    if kind == "abort":
        return Abort(_field(message, "reason", str))
    raise ProtocolError(f"the rank asks for {kind!r}, which the worker link does not know")


def is_abort(frame: bytes) -> bool:
    if len(frame) > _LONGEST_ABORT_BYTES or b"abort" not in frame:
        return False
    try:
        return isinstance(decode_request(frame), Abort)
    except ProtocolError:
        return False


def check_protocol(theirs: int) -> None:
    """Raises ProtocolError unless a sender of that version and this worker understand each other."""
    if abs(theirs - PROTOCOL_VERSION) > 1:
        raise ProtocolError(
            f"the sender speaks version {theirs} of the worker link, this worker {PROTOCOL_VERSION}"
        )


def encode_opened(parts: bool) -> bytes:
    """The answer to `open`: an abort is read before what was announced ahead (link.py). `parts`: reads are recorded, or parts
    that the rank has announced are taken."""
    return msgpack.packb({"ok": True, "readsAhead": True, **({"parts": True} if parts else {})})


def encode_success() -> bytes:
    return msgpack.packb({"ok": True})


def encode_report(
    digests: bytes | None,
    tensors: int,
    installed: Installed | None,
    known: frozenset[bytes],
    kept: Kept | None,
) -> bytes:
    """The answer to `finish`: this worker received `tensors` tensors.

    `digests`: a little-endian 64-bit word for each tensor, in the order in which they were announced, of what came of it at
    its place in the whole; None if they were not asked for. `known`: layouts that are sent without their names.
    """
    message: dict[str, Any] = {"ok": True}
    if digests is not None:
        # Which part of how many it is, the sender knows.
        message["report"] = {"digests": digests, "part": b"\0\0" * tensors, "parts": b"\1\0" * tensors}
    if installed is not None:
        message["installed"] = live_message(installed, with_names=installed.layout not in known)
    if kept is not None:
        message["kept"] = asdict(kept)
    return msgpack.packb(message)


def live_message(installed: Installed, *, with_names: bool) -> dict[str, Any]:
    return {
        "place": installed.place,
        "coverage": installed.coverage,
        "layout": installed.layout,
        "digests": installed.words,
        "names": list(installed.names) if with_names else None,
    }


def encode_survey(device: str, installed: list[Installed]) -> bytes:
    """What a worker holds that nobody has updated."""
    models = [live_message(one, with_names=True) for one in installed]
    return msgpack.packb({"protocol": PROTOCOL_VERSION, "device": device, "models": models})


def encode_failure(traceback: str) -> bytes:
    return msgpack.packb({"ok": False, "error": traceback})


def _tensor(entry: Any) -> Tensor:
    shape = _field(entry, "shape", list)
    for size in shape:
        if type(size) is not int or size < 0:
            raise ProtocolError(f"the rank sends a tensor of shape {shape}")
    part = _part(entry["part"], shape) if "part" in entry else None
    name, dtype = _field(entry, "name", str), _field(entry, "dtype", str)
    return Tensor(name, dtype, tuple(shape), _count(entry, "offset"), part)


def _part(part: Any, shape: list[int]) -> tuple[int, int, int]:
    if type(part) is list and len(part) == 3 and all(type(number) is int and number >= 0 for number in part):
        dim, start, length = part
        if dim < len(shape) and 0 < length <= shape[dim] - start:
            return dim, start, length
    raise ProtocolError(f"the rank sends {part} (dimension, start, length) of a tensor of shape {shape}")


def _field(message: Any, key: str, kind: type) -> Any:
    value = message.get(key) if isinstance(message, dict) else None
    if type(value) is not kind:
        raise ProtocolError(f"the rank's request has the wrong form: {key} is no {kind.__name__}")
    return value


def _option(message: Any, key: str, kind: type, default: Any) -> Any:
    """Senders of version 1 do not have these."""
    return _field(message, key, kind) if isinstance(message, dict) and key in message else default


def _seconds(message: Any, key: str) -> float:
    value = message.get(key, 0)
    # MessagePack has a type of its own for whole numbers.
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ProtocolError(f"the rank's request has the wrong form: {key} is {value}")
    return float(value)


def _count(message: Any, key: str) -> int:
    value = _field(message, key, int)
    if value < 0:
        raise ProtocolError(f"the rank's request has the wrong form: {key} is {value}")
    return value
