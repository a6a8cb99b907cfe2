"""What a daemon answers when it does not do what it is asked. One class for each code, one line for each message."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Type

from .errors import WeightcastError


class DaemonError(WeightcastError):
    """The base of all of them, and what a code becomes that this version does not know."""

    #: Stable identifier, safe to match on.
    code = "WEIGHTCAST_INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        code: Optional[str] = None,
        retry: bool = False,
        status: Optional[int] = None,
        instances: Sequence[Dict[str, Any]] = (),
    ) -> None:
        super().__init__(_one_line(message))
        if code is not None:
            self.code = code
        #: The same request may succeed a moment later.
        self.retry = retry
        #: HTTP status of the answer; None if there was none.
        self.status = status
        #: Of an update that has failed: what became of each instance, as the daemon says it (`name`, `outcome`, `error`, …).
        self.instances = instances


class UsageError(DaemonError):
    """An argument is wrong."""

    code = "WEIGHTCAST_USAGE"


class CheckpointError(DaemonError):
    """A checkpoint cannot be read: names the file, and the tensor where one is at fault."""

    code = "WEIGHTCAST_CHECKPOINT"


class AccessError(DaemonError):
    """The daemon does not allow it: a wrong token, a file outside its roots, an engine that is not on its list."""

    code = "WEIGHTCAST_ACCESS"


class NotFoundError(DaemonError):
    """The daemon has no checkpoint, instance or update of this name."""

    code = "WEIGHTCAST_NOT_FOUND"


class BusyError(DaemonError):
    """It conflicts with work that is running: try again when that has ended."""

    code = "WEIGHTCAST_BUSY"


class NotReadyError(DaemonError):
    """No daemon answers, or it is starting its cluster again: try again."""

    code = "WEIGHTCAST_NOT_READY"


class PeerLostError(DaemonError):
    """A process of the cluster died meanwhile: try again."""

    code = "WEIGHTCAST_PEER_LOST"


class DeadlineError(DaemonError):
    """A wait reached its deadline, the daemon's or the client's."""

    code = "WEIGHTCAST_DEADLINE"


class AbortedError(DaemonError):
    """The work was cancelled."""

    code = "WEIGHTCAST_ABORTED"


class DeviceMemoryError(DaemonError):
    """A device has too little free memory: names the rank, and the largest tensor if that does not fit."""

    code = "WEIGHTCAST_MEMORY"


class HostMemoryError(DaemonError):
    """Shared memory cannot hold a checkpoint: says what is wanted and what is free."""

    code = "WEIGHTCAST_OUT_OF_HOST_MEMORY"


class EngineError(DaemonError):
    """An engine answered with an error, or could not be reached."""

    code = "WEIGHTCAST_ENGINE"


class WorkerLinkError(DaemonError):
    """An engine's worker answered with a traceback, or stopped answering."""

    code = "WEIGHTCAST_WORKER_LINK"


class VerificationError(DaemonError):
    """Digests from engine workers differ from the checkpoint's: names the tensor and the instance."""

    code = "WEIGHTCAST_VERIFICATION"


def _one_line(text: str) -> str:
    """What engines, files and names have put into it moves no terminal's cursor, and adds no line."""
    text = " ".join(text.splitlines())
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


_classes: Dict[str, Type[DaemonError]] = {one.code: one for one in DaemonError.__subclasses__()}


def error_of(code: str, message: str, **facts: Any) -> DaemonError:
    """The error that a code stands for."""
    return _classes.get(code, DaemonError)(message, code=code, **facts)
