"""What one rank of `python -m weightcast.update` does, once its options are known."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from ..client_errors import UsageError
from .engine_probe import EngineProbe
from .parameter_server import ParameterServer
from .sender import Engine

_METAS_SECONDS = 300.0


class EngineUpdater(ParameterServer):
    """A `ParameterServer` for one engine, which the daemon asks."""

    def __init__(self, engine: Engine) -> None:
        self._one = engine
        super().__init__()

    def _engine(self) -> Engine:
        return self._one


def run(options: argparse.Namespace, rank: int, size: int) -> None:
    _check(options, size)
    name = options.checkpoint_name
    joins = options.load_metas_file is not None or options.metas_url is not None
    # Before the engine is waited for, which may take an hour.
    files = [] if joins else _files_of(options.checkpoint_path)
    server = EngineUpdater(_engine_of(options, rank))
    if not joins:
        server.register_checkpoint(name, files=files[rank::size])
    with _timed(rank, "gather metas"):
        server.gather_metas(name)
    if joins:
        server.load_metas(_metas_of(options))
    elif options.save_metas_file is not None and rank == 0:
        _save(options.save_metas_file, server.get_metas())
    timeout = timedelta(seconds=options.timeout)
    if not joins and options.update_method in ("broadcast", "all"):
        with _timed(rank, "update without ranks"):
            server.update(name, _nothing, timeout=timeout)
    if joins or options.update_method in ("p2p", "all"):
        with _timed(rank, "update with ranks"):
            server.update(name, _nothing, timeout=timeout, ranks=list(range(size)))
    time.sleep(options.sleep_time)


def _nothing(_paths: Any) -> None:
    """The daemon asks the engine."""


def _check(options: argparse.Namespace, size: int) -> None:
    if options.custom_dist == "vllm_hccl":
        raise UsageError("--custom-dist vllm_hccl is for Ascend devices, which weightcast does not have")
    if size > options.inference_parallel_size:
        raise UsageError(
            f"{size} ranks, and --inference-parallel-size {options.inference_parallel_size}: one engine is updated, at "
            f"{options.uds or options.endpoint}; start as many ranks as it has workers, or give the number of its workers"
        )


def _engine_of(options: argparse.Namespace, rank: int) -> Engine:
    """Waits on rank 0, which is the one that uses it, until the engine is healthy."""
    key = os.environ.get("WEIGHTCAST_ENGINE_API_KEY")
    probe = EngineProbe(options.endpoint, options.uds, key)
    link = options.link or "weightcast"
    if rank == 0:
        probe.until_healthy(options.ready_timeout)
        if options.link is None and options.engine == "vllm":
            link = probe.link()
    return Engine("weightcast.update", probe.endpoint, options.engine, link, key)


def _files_of(path: str) -> list[str]:
    try:
        names = os.listdir(path)
    except OSError as error:
        raise UsageError(f"--checkpoint-path {path}: {error.strerror}") from error
    files = sorted(os.path.join(path, name) for name in names if name.endswith(".safetensors"))
    if not files:
        raise UsageError(f"{path} has no safetensors files")
    return files


def _metas_of(options: argparse.Namespace) -> Mapping[Any, Any]:
    """Of `--save-metas-file`, or of a program that wrote what `get_metas` returns."""
    try:
        if options.load_metas_file is not None:
            with open(options.load_metas_file) as file:
                text = file.read()
        else:
            with urllib.request.urlopen(options.metas_url, timeout=_METAS_SECONDS) as response:
                text = response.read().decode()
        metas = json.loads(text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{options.load_metas_file or options.metas_url} has no metas: {why}") from error
    if not isinstance(metas, dict):
        raise UsageError(f"{options.load_metas_file or options.metas_url} has no metas: they are an object of JSON")
    return {0: {"p2p_store_addr": text}} if "format" in metas else metas


def _save(path: str, metas: Mapping[int, Any]) -> None:
    """As `weightcast update --save-metas` does. For its owner only: it grants access to the weights."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(metas[0]["p2p_store_addr"])


@contextlib.contextmanager
def _timed(rank: int, what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    if rank == 0:
        print(f"{what}: {time.perf_counter() - begun:.2f} s", flush=True)
