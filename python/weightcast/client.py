"""A client of the daemon that `weightcast serve` is, with nothing but the standard library (Python 3.10 or newer).

    from weightcast.client import Client

    client = Client()
    client.add_instance("engine", "http://127.0.0.1:8000", ranks=range(8))
    for step in range(steps):
        train(model)
        client.register("policy", tensors=model.state_dict())
        report = client.update("policy").report

Every method raises a `DaemonError` (client_errors.py): its `code` is stable, `retry` says that the same call may succeed a
moment later, and its message is one line. A client may be used by several threads at once.
"""

from __future__ import annotations

import itertools
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

from .client_checks import absolute_path, count_of, given, list_of, name_of, quoted, seconds_of, worker_groups_of
from .client_errors import (
    AccessError,
    BusyError,
    CheckpointError,
    DaemonError,
    DeadlineError,
    NotFoundError,
    NotReadyError,
    UsageError,
)
from .client_http import DaemonHttp, HeldConnection, default_socket
from .client_results import (
    Checkpoint,
    Event,
    Instance,
    InstanceOutcome,
    Report,
    Status,
    Update,
    Version,
    checkpoint_of,
    status_of,
    update_of,
)
from .tensor_files import unlink, write_tensors

__all__ = [
    "AccessError",
    "BusyError",
    "Checkpoint",
    "CheckpointError",
    "Client",
    "DaemonError",
    "DeadlineError",
    "Event",
    "Instance",
    "InstanceOutcome",
    "NotFoundError",
    "NotReadyError",
    "Report",
    "Status",
    "Update",
    "UsageError",
    "Version",
    "default_socket",
]

#: Beyond an update's own deadline the daemon cleans up, and resumes engines.
_CLEANUP_SECONDS = 120.0


class Client:
    """Talks to a daemon on a Unix socket, by default this user's, or over TCP with a token."""

    def __init__(
        self,
        socket: Optional[str] = None,
        url: Optional[str] = None,
        token: Optional[str] = None,
        timeout: float = 120.0,
    ) -> None:
        """`timeout`: seconds that an answer may take; registrations and updates have deadlines of their own."""
        self._http = DaemonHttp(socket, url, token)
        self._timeout = seconds_of("timeout", timeout)
        self._shared_directory: Optional[str] = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is kept open between two calls."""

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────

    def register(
        self,
        name: str,
        path: Optional[str] = None,
        *,
        files: Optional[Iterable[str]] = None,
        tensors: Optional[Mapping[str, Any]] = None,
        metas: Optional[str] = None,
        hosts: Optional[Iterable[str]] = None,
        version: Optional[str] = None,
        timeout: float = 3600.0,
    ) -> Checkpoint:
        """Registers a checkpoint; one of the same name is replaced once the new one is loaded.

        Give one of `path`, a safetensors file or a model's directory; `files`, a list of them; `tensors`, by name: tensors
        of torch (of the CPU or a GPU) or numpy, or `(dtype, shape, bytes)` with a dtype of the safetensors format. They are
        written once, into shared memory of the daemon's host, which has to be this one; they may be changed when this
        returns. Or `metas`, a file with what `metas` of another daemon says, from whose memory it is read. `hosts`: whose
        ranks load the files. `version`: what this content is called. `timeout`: in seconds.
        """
        if sum(source is not None for source in (path, files, tensors, metas)) != 1:
            raise UsageError("give one of path, files, tensors and metas")
        name_of("name", name)
        if version is not None:
            name_of("version", version)
        body: Dict[str, Any] = {"name": name, **given({"hosts": list_of("hosts", hosts), "version": version})}
        if tensors is not None:
            return self._register_tensors(body, tensors, timeout)
        if path is not None:
            body["path"] = absolute_path("path", path)
        elif metas is not None:
            body["metas"] = absolute_path("metas", metas)
        else:
            body["files"] = [absolute_path("files", file) for file in list_of("files", files) or ()]
        return checkpoint_of(self._call("POST", "/v1/checkpoints", body, timeout))

    def metas(self, name: str) -> str:
        """The content of a metas file, with which other clusters read a checkpoint from this one's memory, as long as it is
        registered here. It grants access to the checkpoint.
        """
        return self._call("GET", f"/v1/checkpoints/{quoted(name)}/metas", timeout=3600.0)["metas"]

    def unregister(self, name: str) -> None:
        """Removes a checkpoint; its host memory is free for later ones."""
        self._call("DELETE", f"/v1/checkpoints/{quoted(name)}")

    def _register_tensors(self, body: Dict[str, Any], tensors: Mapping[str, Any], timeout: float) -> Checkpoint:
        file = self._write(tensors)
        try:
            return checkpoint_of(self._call("POST", "/v1/checkpoints", {**body, "path": file}, timeout))
        except DaemonError as error:
            # The daemon removes what it has refused; of what it may still be doing nobody knows.
            if not isinstance(error, DeadlineError):
                unlink(file)
            raise

    def checkpoint_files(self, name: str) -> Optional[Dict[str, Any]]:
        """What the daemon knows of a checkpoint, with `files`, their paths on its host; None if it has none of this name."""
        try:
            return self._call("GET", f"/v1/checkpoints/{quoted(name)}")
        except NotFoundError:
            return None

    def hold_session(self) -> HeldConnection:
        """Files of shared memory whose names begin with `session-ID-` go when this is closed, unless they are registered."""
        return self._http.hold("/v1/session", self._timeout)

    def _write(self, tensors: Mapping[str, Any]) -> str:
        if self._shared_directory is not None:
            try:
                return write_tensors(self._shared_directory, tensors)
            except FileNotFoundError:
                # Another daemon has another one.
                self._shared_directory = None
        directory = self._call("GET", "/v1/status")["daemon"]["shared_directory"]
        try:
            file = write_tensors(directory, tensors)
        except (FileNotFoundError, PermissionError) as error:
            raise UsageError(
                f"tensors go through {directory}, which is not here, or not this user's: write files, and give path"
            ) from error
        self._shared_directory = directory
        return file

    # ── instances ────────────────────────────────────────────────────────────────────────────────────────────────

    def add_instance(
        self,
        name: str,
        endpoint: str,
        ranks: Optional[Iterable[int]] = None,
        *,
        worker_count: Optional[int] = None,
        workers: Optional[Iterable[Mapping[str, Any]]] = None,
        engine: Optional[str] = None,
        link: Optional[str] = None,
        host: Optional[str] = None,
        devices: Optional[Iterable[Union[int, str]]] = None,
        api_key: Optional[str] = None,
        pause: Optional[str] = None,
        reset_cache: Optional[bool] = None,
        has_draft_model: Optional[bool] = None,
    ) -> Status:
        """Adds a running engine. `ranks`: of its workers, in their order; rank n is on device n, unless
        `devices` says where each is: by index, or a GPU's UUID. `worker_count`, in place of `ranks`: so many, the lowest numbers
        in a row that no instance has.

        `workers`, in place of `ranks`, `host` and `devices`: of an engine that spans hosts, the workers on each of them, in the
        order in which the engine numbers them: `[{"devices": range(8)}, {"host": "node-2", "devices": range(8)}]`. Hosts are
        those of the daemon's configuration; ranks without `ranks` get the lowest numbers that are free.

        `engine`: "vllm" (default), "sglang" or "lmdeploy". `link`: "weightcast" (default) or "checkpoint-engine". `pause`: how to pause
        it during updates (vLLM: "abort", "wait", "keep"; SGLang: "abort", "retract", "in_place"; LMDeploy: "abort"; "caller": you do).
        """
        if worker_count is not None and self._api() < 2:
            ranks, worker_count = self._free_ranks(worker_count), None
        options = {
            "ranks": list_of("ranks", ranks),
            "worker_count": worker_count,
            "workers": worker_groups_of(workers),
            "engine": engine,
            "link": link,
            "host": host,
            "devices": list_of("devices", devices),
            "api_key": api_key,
            "pause": pause,
            "reset_cache": reset_cache,
            "has_draft_model": has_draft_model,
        }
        body = {"name": name, "endpoint": endpoint, **given(options)}
        # It may have to load what was registered before there was an instance.
        return status_of(self._call("POST", "/v1/instances", body, 3600.0))

    def _api(self) -> int:
        if self._http.daemon_api == 0:
            self.status()
        return self._http.daemon_api

    def _free_ranks(self, count: int) -> Sequence[int]:
        """For a daemon that does not number ranks itself; of two clients that ask at once it refuses the second."""
        taken = {rank for one in self.status().instances for rank in one.ranks}
        count = count_of("worker_count", count, 1)
        first = next(first for first in itertools.count() if taken.isdisjoint(range(first, first + count)))
        return range(first, first + count)

    def remove_instance(self, name: str) -> None:
        """Ends the ranks of an instance. Its engine keeps running."""
        self._call("DELETE", f"/v1/instances/{quoted(name)}")

    def resume(self, name: str) -> None:
        """Resumes an engine that an update has left paused, whatever weights it holds."""
        self._call("POST", f"/v1/instances/{quoted(name)}/resume")

    def join_file(self, host: str) -> str:
        """With what `weightcast agent` becomes the agent of a host that joins, as long as the daemon runs. A secret."""
        return self._call("GET", f"/v1/hosts/{quoted(host)}/join-file")["join_file"]

    # ── updates ──────────────────────────────────────────────────────────────────────────────────────────────────

    def update(
        self,
        checkpoint: str,
        instances: Optional[Iterable[str]] = None,
        *,
        wait: bool = True,
        timeout: float = 600.0,
        step_timeout: Optional[float] = None,
        connect_timeout: Optional[float] = None,
        ready_timeout: Optional[float] = None,
        resume_timeout: Optional[float] = None,
        verify: Union[bool, Dict[str, Any], None] = None,
        bucket_bytes: Optional[int] = None,
        memory_fraction: Optional[float] = None,
        fused_modules: Optional[List[List[str]]] = None,
        atomic: Optional[bool] = None,
        keep_copy: Optional[bool] = None,
        heal: Optional[bool] = None,
        accept_unproven: Optional[bool] = None,
        parts: Optional[bool] = None,
    ) -> Update:
        """Installs a registered checkpoint in instances, by default in all. Returns with what became of each.

        With `wait=False` it returns at once; `update_status` and `events` tell of the rest. `timeout`: of the whole update,
        in seconds, after which it fails; `step_timeout`: of one answer of an engine worker; `connect_timeout`: when one engine
        worker has connected to its rank, of the others; `ready_timeout`: of an engine that is down when the update begins;
        `resume_timeout`: of an engine that is to resume. `atomic`: raise when any instance fails, and not only when all do. `verify`: true, false, or a dict with `installed`, `baseline` (a file of
        `weightcast baseline`) and `answers`. `heal`: update instances that failed when they are back.
        `parts`: False sends whole tensors also where it is known which parts engine workers keep.
        """
        options = {
            "instances": list_of("instances", instances),
            "step_timeout_seconds": step_timeout,
            "connect_timeout_seconds": connect_timeout,
            "ready_timeout_seconds": ready_timeout,
            "resume_timeout_seconds": resume_timeout,
            "verify": verify,
            "bucket_bytes": bucket_bytes,
            "memory_fraction": memory_fraction,
            "fused_modules": fused_modules,
            "atomic": atomic,
            "keep_copy": keep_copy,
            "heal": heal,
            "accept_unproven": accept_unproven,
            "parts": parts,
        }
        timeout = seconds_of("timeout", timeout)
        body = {"checkpoint": checkpoint, "wait": wait, "timeout_seconds": timeout, **given(options)}
        return update_of(self._call("POST", "/v1/updates", body, timeout + _CLEANUP_SECONDS))

    def update_status(self, update: str) -> Update:
        """An update by its id: one that runs, or one of the last that have ended."""
        return update_of(self._call("GET", f"/v1/updates/{quoted(update)}"))

    def cancel_update(self, update: str) -> Update:
        """Cancels one that runs. Returns when it has ended: engines that are whole are resumed."""
        return update_of(self._call("DELETE", f"/v1/updates/{quoted(update)}"))

    # ── the daemon ───────────────────────────────────────────────────────────────────────────────────────────────

    def status(self) -> Status:
        return status_of(self._call("GET", "/v1/status"))

    def events(self, update: Optional[str] = None, *, timeout: Optional[float] = None) -> Iterator[Event]:
        """What happens from now on, until the daemon ends; of one update, until that has ended.

        Raises `NotReadyError` if the connection breaks, and `DeadlineError` after `timeout`, in seconds, by default never;
        it is looked at whenever the daemon has sent something, which it does every 15 seconds.
        """
        path = "/v1/events" if update is None else f"/v1/updates/{quoted(update)}/events"
        for kind, data in self._http.events(path, timeout):
            yield Event(kind, data)

    def stop(self) -> None:
        """Ends the daemon, its ranks, and what it has in shared memory. Engines keep running."""
        self._call("POST", "/v1/stop")

    def _call(
        self, method: str, path: str, body: Optional[Dict[str, Any]] = None, timeout: Optional[float] = None
    ) -> Dict[str, Any]:
        return self._http.call(method, path, body, self._timeout if timeout is None else timeout)
