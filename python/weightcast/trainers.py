"""What the adapters for trainers share: engines by their endpoints, and which rank gives which tensors."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from .client import Client
from .client_checks import engine_address, list_of
from .client_errors import EngineError, UsageError

#: The URL of an engine, or a dict of what `Client.add_instance` takes: `endpoint`, and whatever differs from its defaults.
Engine = Union[str, Mapping[str, Any]]

#: An engine that loads its model may take a while to answer, but this route is there before it is ready.
_ANSWER_SECONDS = 30.0


def ensure_instances(client: Client, engines: Iterable[Engine]) -> List[str]:
    """The names of the daemon's instances at these engines. Those that it does not have are added.

    An added one is named by its host, port and path. Its `ranks` are the lowest free numbers in a row, as many as it has workers:
    `workers` of its dict, or what vLLM says. Rank n is on device n, so give `devices` where the trainer uses the first ones itself.
    Raises `UsageError`, `EngineError` if an engine does not say how many workers it has, and what `add_instance` raises.
    """
    names: List[str] = []
    for engine in list_of("engines", engines) or ():
        options = dict(engine) if isinstance(engine, Mapping) else {"endpoint": engine}
        endpoint, workers = str(options.pop("endpoint", "")).rstrip("/"), options.pop("workers", None)
        parts = engine_address("the endpoint of an engine", endpoint, ("http", "https", "unix"))
        known = client.status().instances
        name = next((one.name for one in known if one.endpoint.rstrip("/") == endpoint), None)
        if name is None:
            name = options.pop("name", None) or (parts.netloc + parts.path if parts.netloc else endpoint)
            if options.get("ranks") is None:
                options["worker_count"] = workers or options.get("worker_count") or _workers_of(endpoint, options)
            client.add_instance(name, endpoint, **options)
        names.append(name)
    return names


def _workers_of(endpoint: str, options: Mapping[str, Any]) -> int:
    if options.get("engine", "vllm") != "vllm" or endpoint.startswith("unix"):
        raise UsageError(f"engine {endpoint}: give workers or ranks; only vLLM is asked how many there are")
    request = urllib.request.Request(f"{endpoint}/get_world_size")
    if options.get("api_key"):
        request.add_header("authorization", f"Bearer {options['api_key']}")
    # Engines are on this network: no proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            return int(json.load(answer)["world_size"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        why = f"{error.code} {error.reason}" if isinstance(error, urllib.error.HTTPError) else error
        raise EngineError(
            f"engine {endpoint} does not say how many workers it has ({why}): start it with VLLM_SERVER_DEV_MODE=1, "
            "or give workers or ranks"
        ) from error


def memory_of_this_process() -> str:
    """Equal in processes that see the same shared memory: those of one kernel with the same /dev/shm mounted."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}:{os.stat('/dev/shm').st_dev}"


def share_of(rank: int, memories: Sequence[str]) -> Optional[Tuple[int, int]]:
    """Which share a rank of the trainer publishes, as (index, count). `memories`: of every rank, in their order.

    The shares go to the ranks that see the same shared memory as rank 0, which publishes where the daemon is. None for
    the others.
    """
    publishing = [one for one, memory in enumerate(memories) if memory == memories[0]]
    return (publishing.index(rank), len(publishing)) if rank in publishing else None


def update_options(update: Optional[Mapping[str, Any]], instances: Optional[List[str]]) -> Dict[str, Any]:
    """Arguments of `Publisher.update`. `update` is the user's; `instances`: None for all that the daemon has.

    One that was not updated is an error, as with the frameworks' own transports: nobody would look at the report.
    """
    return {"instances": instances, "atomic": True, **(update or {})}
