"""A rank of a group whose engines each rank asks itself: `torchrun … parameter_server_cases.py ENDPOINT ENDPOINT`."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

import torch
from weightcast.client_errors import DaemonError, EngineError, NotFoundError, UsageError
from weightcast.compat import ParameterServer

endpoints = sys.argv[1:]
rank = int(os.environ["RANK"])
asked: list[str] = []


def ask(paths: list[tuple[str, str]]) -> None:
    uuid, address = paths[rank]
    asked.append(address)
    body = json.dumps(
        {"method": "update_weights_from_ipc", "args": [{uuid: address}]}
    ).encode()
    with urllib.request.urlopen(
        f"{endpoints[rank]}/collective_rpc", body, timeout=60
    ) as answer:
        answer.read()


def fail_on_1(paths: list[tuple[str, str]]) -> None:
    if rank == 1:
        raise ValueError("rank 1 does not want to")
    ask(paths)


def refused(kind: type[DaemonError], words: str, work: Any) -> None:
    try:
        work()
    except kind as error:
        assert words in str(error) and "\n" not in str(error), error
    else:
        raise AssertionError(f"rank {rank} was not refused: {words}")


server = ParameterServer()
assert server.get_metas() == {}
server.register_checkpoint(
    "one", named_tensors={f"of rank {rank}": torch.full((3,), rank + 1.0)}
)
refused(UsageError, "registered already", lambda: server.register_checkpoint("one"))
server.gather_metas("one")

server.update("one", ask)
assert torch.distributed.is_initialized() is False
server.update("one", ask, ranks=[1])
assert len(asked) == 1 + rank, asked
refused(UsageError, "those from 0 to 1", lambda: server.update("one", ask, ranks=[2]))

refused(
    EngineError,
    "req_func failed on rank 1: ValueError: rank 1 does not want to",
    lambda: server.update("one", fail_on_1),
)
server.update("one", ask)

server.unregister_checkpoint("one")
server.unregister_checkpoint("one")
refused(NotFoundError, "no checkpoint one", lambda: server.update("one", ask))
