"""Agents in a job that torchrun has started: one on each node but the daemon's, found by torchrun's variables.

    from weightcast.torchrun import start_agent

    agent = start_agent()         # in every process, before or after init_process_group
    ...
    if agent is not None:
        agent.stop()

The daemon runs on the node of rank 0 and knows the other nodes as `node-1`, `node-2`, … (`weightcast serve --host node-1
--host node-2`, by GROUP_RANK), unless `hosts` says otherwise. What lets an agent join is a secret; it goes through
torch.distributed's store, which whoever reaches its port can read, and is deleted there once it is read.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any, Mapping, Optional, Sequence

from .agent_process import AgentProcess
from .client import Client
from .client_errors import DaemonError, DeadlineError, NotReadyError, UsageError, error_of
from .compat.settings import environment as variable
from .compat.settings import environment_number

__all__ = ["start_agent"]


def start_agent(
    client: Optional[Client] = None,
    *,
    hosts: Optional[Sequence[Optional[str]]] = None,
    store: Any = None,
    environment: Optional[Mapping[str, str]] = None,
    timeout: float = 120.0,
) -> Optional[AgentProcess]:
    """Called by every process of the job; returns the agent in local rank 0 of a node that has one, and None elsewhere.

    `client`: of the daemon; only rank 0 uses it, by default with the daemon on its node. `hosts`: of every node, by
    GROUP_RANK, its name as a host of the daemon's cluster, or None where the daemon itself runs; the same on all. `store`: a
    store of torch.distributed that all have; by default the process group's, or torchrun's own. `environment`: variables for
    the agent and its ranks. `timeout`: in seconds, of the daemon's answer and of the way through the store.

    The agent ends with this process. Raises `UsageError`, what the daemon answers to rank 0, on all nodes, and
    `DeadlineError`.
    """
    node, nodes = environment_number("GROUP_RANK"), environment_number("GROUP_WORLD_SIZE")
    rank, local_rank = environment_number("RANK"), environment_number("LOCAL_RANK")
    names = [None, *(f"node-{one}" for one in range(1, nodes))] if hosts is None else list(hosts)
    if len(names) != nodes:
        raise UsageError(f"hosts has {len(names)} names, and the job {nodes} nodes (GROUP_WORLD_SIZE)")
    name = names[node] if local_rank == 0 else None
    if rank != 0 and name is None:
        return None
    shared = _store() if store is None else store
    if rank == 0:
        _hand_out(shared, client or Client(), names)
    return None if name is None else AgentProcess(_text(shared, node, name, timeout), name, environment)


def _hand_out(store: Any, client: Client, names: Sequence[Optional[str]]) -> None:
    """Every node gets its text, or all get why there is none."""
    try:
        texts = {node: client.join_file(name) for node, name in enumerate(names) if name is not None}
    except DaemonError as error:
        for node, name in enumerate(names):
            if name is not None:
                store.set(_key(node), json.dumps({"code": error.code, "message": str(error)}))
        raise
    for node, text in texts.items():
        store.set(_key(node), json.dumps({"join": text}))


def _text(store: Any, node: int, name: str, timeout: float) -> str:
    key = _key(node)
    try:
        store.wait([key], timedelta(seconds=timeout))
    except RuntimeError as error:
        raise DeadlineError(
            f"rank 0 has not sent the join text of host {name} within {timeout:g} s: {_line(error)}"
        ) from error
    answer = json.loads(store.get(key))
    store.delete_key(key)
    if "join" not in answer:
        raise error_of(answer["code"], f"rank 0: {answer['message']}")
    return answer["join"]


def _key(node: int) -> str:
    """Of this attempt: torchrun starts all processes again when one fails, and its store stays."""
    return f"weightcast/join/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{node}"


def _store() -> Any:
    try:
        import torch.distributed as distributed
    except ImportError as error:
        raise UsageError(f"weightcast.torchrun needs torch, which cannot be imported: {error}") from error
    if distributed.is_available() and distributed.is_initialized():
        from torch.distributed.distributed_c10d import _get_default_store

        return _get_default_store()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UsageError("start_agent needs a store: call it after init_process_group, or give one")
    address, port = variable("MASTER_ADDR"), environment_number("MASTER_PORT")
    try:
        return distributed.TCPStore(address, port, is_master=False)
    except RuntimeError as error:
        raise NotReadyError(f"torchrun's store at {address}:{port} does not answer: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
