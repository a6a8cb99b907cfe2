"""What a daemon answers, with types. Fields that a later daemon adds are left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from .client_errors import DaemonError, error_of


@dataclass(frozen=True)
class Version:
    checkpoint: str
    #: Digest of the checkpoint's content.
    digest: str

    def __str__(self) -> str:
        return f"{self.checkpoint}@{self.digest}"


@dataclass(frozen=True)
class Checkpoint:
    name: str
    #: What its publisher calls this content; None if it was given no name.
    version: Optional[str]
    #: `waiting`: it is loaded when the first instance is added. `loaded`. `failed`: `problem` says why.
    state: str
    #: None while it waits.
    digest: Optional[str]
    tensors: int
    bytes: int
    #: Duration of its registration.
    seconds: Optional[float]
    problem: Optional[str]
    #: In the memory of a device: only ranks there read it, and it ends with its trainer.
    on_device: bool = False


@dataclass(frozen=True)
class Instance:
    name: str
    endpoint: str
    ranks: List[int]
    #: `unknown`, `updating`, `verifying`, `serving` or `broken`; `problem` says why.
    state: str
    #: An update has left it paused.
    is_paused: bool
    #: What it serves; None while that is unknown, or no one version.
    version: Optional[Version]
    problem: Optional[str]
    #: Why its draft model has other weights than its target; None if it has not, or nobody knows.
    draft_kept: Optional[str] = None


@dataclass(frozen=True)
class InstanceOutcome:
    """What an update has made of one instance."""

    name: str
    #: `updated`, `unchanged` or `broken`.
    outcome: str
    paused: bool
    #: `arrived`, `installed`, `answering`: what holds of each, such as `holds`, `unknown` or `not asked`.
    proofs: Dict[str, str]
    seconds: float
    #: Why it was not updated, or is still paused.
    error: Optional[DaemonError]
    #: `parts`: each rank was sent only what its engine worker keeps; `whole`: whole tensors, for `why_whole`.
    fed: Optional[str] = None
    why_whole: Optional[str] = None
    #: `dropped`, or `kept`: then the engine may answer from caches that the old weights computed.
    caches: Optional[str] = None
    #: It was updated, and its draft model has kept its weights: why.
    draft_kept: Optional[str] = None


@dataclass(frozen=True)
class Report:
    """An update that has ended."""

    checkpoint: str
    digest: str
    #: `checkpoint@digest`.
    version: str
    instances: List[InstanceOutcome]
    mode: str
    ranks: int
    tensors: int
    bytes: int
    #: Bytes that ranks received from other hosts.
    received_bytes: int
    #: From prepare to the resumption of engines.
    seconds: float
    #: 10^9 bytes a second, to each rank that gets whole tensors, while streaming.
    gbps: float
    #: Seconds that each stage was busy, on average of the ranks.
    stages: Dict[str, float] = field(default_factory=dict)
    #: Of each `rank`, `uploaded_bytes` from host memory to its device, and `broadcast_bytes` from other ranks.
    links: List[Dict[str, int]] = field(default_factory=list)
    #: Ranks that went on serially from some bucket on, because device memory ran short: `rank` and `bucket` of each.
    serial_from: List[Dict[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    #: `receive` or `update`.
    activity: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Update:
    id: str
    checkpoint: str
    instances: List[str]
    #: `running`, `succeeded` or `failed`.
    state: str
    started_at: str
    #: So far, while it runs.
    seconds: float
    progress: Optional[Progress]
    #: None unless it has succeeded.
    report: Optional[Report]
    #: None unless it has failed.
    error: Optional[DaemonError]


@dataclass(frozen=True)
class Status:
    #: Every instance serves the same version, none is broken or paused; `reasons` say why not.
    ready: bool
    reasons: List[str]
    #: Of the daemon: `ready`, `restarting`, `stopping`.
    state: str
    #: Of weightcast.
    version: str
    #: How often the daemon has started its supervisor again.
    restarts: int
    instances: List[Instance]
    checkpoints: List[Checkpoint]
    #: Those that run.
    updates: List[Update]

    def instance(self, name: str) -> Optional[Instance]:
        return next((one for one in self.instances if one.name == name), None)


@dataclass(frozen=True)
class Event:
    #: `progress`, `update`, `checkpoint`, `instance` or `cluster`.
    type: str
    data: Dict[str, Any]


def _known(result: Any, answer: Dict[str, Any], **others: Any) -> Any:
    names = result.__dataclass_fields__
    return result(**{key: value for key, value in {**answer, **others}.items() if key in names})


def _error(answer: Optional[Dict[str, Any]]) -> Optional[DaemonError]:
    return None if answer is None else error_of(answer["code"], answer["message"], instances=answer.get("instances") or ())


def checkpoint_of(answer: Dict[str, Any]) -> Checkpoint:
    return _known(Checkpoint, answer)


def _instance_of(answer: Dict[str, Any]) -> Instance:
    version = answer["version"]
    return _known(Instance, answer, version=None if version is None else _known(Version, version))


def _report_of(answer: Dict[str, Any]) -> Report:
    outcomes = [_known(InstanceOutcome, one, error=_error(one["error"])) for one in answer["instances"]]
    return _known(Report, answer, instances=outcomes)


def update_of(answer: Dict[str, Any]) -> Update:
    progress, report = answer["progress"], answer["report"]
    return _known(
        Update,
        answer,
        progress=None if progress is None else _known(Progress, progress),
        report=None if report is None else _report_of(report),
        error=_error(answer["error"]),
    )


def status_of(answer: Dict[str, Any]) -> Status:
    daemon = answer["daemon"]
    return Status(
        ready=answer["ready"],
        reasons=answer["reasons"],
        state=daemon["state"],
        version=daemon["version"],
        restarts=daemon["restarts"],
        instances=[_instance_of(one) for one in answer["instances"]],
        checkpoints=[checkpoint_of(one) for one in answer["checkpoints"]],
        updates=[update_of(one) for one in answer["updates"]],
    )
