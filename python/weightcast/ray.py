"""Agents on the nodes of a Ray cluster: the ranks of each run beside the engine's workers there.

    import ray
    from weightcast.client import Client
    from weightcast.ray import nodes_of, start_agents

    client = Client()                                   # weightcast serve --host node-2 --host node-3 … on this node
    _, *others = nodes_of(engine.placement_group)       # or the ids of ray.nodes()
    agents = start_agents(client, dict(zip(["node-2", "node-3"], others)))
    client.add_instance("b", "http://10.0.0.2:8000", ranks=range(8, 16), host="node-2")
    ...
    agents.stop()

An agent is a child of an actor that is pinned to its node and takes none of its resources: engines have reserved the GPUs,
and the ranks use them too. Agents end with the job. Ray is imported when `start_agents` is called.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional, Union

from .agent_process import AgentProcess
from .client import Client
from .client_errors import DeadlineError, NotReadyError, PeerLostError, UsageError
from .errors import WeightcastError

__all__ = ["Agents", "nodes_of", "start_agents"]

#: An actor's process starts, and imports this package.
_START_SECONDS = 120.0
_STOP_SECONDS = 150.0
_CHECK_SECONDS = 30.0


def start_agents(
    joins: Union[Client, Mapping[str, str]],
    nodes: Mapping[str, str],
    *,
    environment: Optional[Mapping[str, str]] = None,
    runtime_env: Optional[Mapping[str, Any]] = None,
    timeout: float = _START_SECONDS,
) -> "Agents":
    """Starts the agent of each host on its node. `ray.init` has been called.

    `joins`: a daemon's client, or the join text of each host. `nodes`: of each host that joins the cluster the node's id or,
    where one node alone has it, its address or name. `environment`: variables for the agents and their ranks (NCCL_…).
    `runtime_env`: of the actors. `timeout`: seconds until all run.

    Raises `UsageError` (no Ray, an unknown node or host), `NotReadyError` (a node has no command `weightcast`), `PeerLostError`
    (a node is lost) and `DeadlineError`; then none runs. A host has joined a moment after this returns: until then its
    instances are not ready.
    """
    ray = _ray()
    if not ray.is_initialized():
        raise UsageError("start_agents is called in a job of Ray: call ray.init first")
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    texts = {host: joins.join_file(host) if isinstance(joins, Client) else _text(joins, host) for host in nodes}
    places = {host: _node(ray, host, node) for host, node in nodes.items()}
    kind = ray.remote(num_cpus=0, max_restarts=0)(_Agent)
    options = {} if runtime_env is None else {"runtime_env": dict(runtime_env)}
    agents = Agents(ray)
    try:
        for host, place in places.items():
            pinned = NodeAffinitySchedulingStrategy(place, soft=False)
            agents.add(host, kind.options(scheduling_strategy=pinned, **options).remote(host))
        # The text is an argument of a method, and not of the actor's creation, which Ray's head keeps.
        agents.call(
            "start", {host: (texts[host], dict(environment or {})) for host in places}, timeout, "start"
        )
    except BaseException:
        agents.kill()
        raise
    return agents


def nodes_of(placement_group: Any) -> List[str]:
    """The ids of the nodes on which a placement group's bundles are, each once, in the order of the bundles.

    Raises `NotReadyError` if bundles are not placed yet: wait for `placement_group.ready()`.
    """
    _ray()
    from ray.util import placement_group_table

    bundles = placement_group_table(placement_group).get("bundles_to_node_id") or {}
    placed = [bundles.get(index) for index in range(len(placement_group.bundle_specs))]
    if not placed or not all(placed):
        raise NotReadyError("the placement group's bundles are not placed yet: wait for its ready()", retry=True)
    return list(dict.fromkeys(placed))


class Agents:
    """Agents that run. They end with `stop`, when this object is gone, and with the job."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._actors: Dict[str, Any] = {}

    def __enter__(self) -> "Agents":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def hosts(self) -> List[str]:
        return list(self._actors)

    def add(self, host: str, actor: Any) -> None:
        self._actors[host] = actor

    def check(self, timeout: float = _CHECK_SECONDS) -> None:
        """Raises `PeerLostError` with the reason if one has ended otherwise than with its cluster, or its node is lost."""
        self.call("check", {host: () for host in self._actors}, timeout, "answer")

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Ends the agents and their ranks. May be called twice. Raises `DeadlineError` for one that does not end in time, and
        `PeerLostError` for one whose node is lost; the others have ended then, too."""
        try:
            self.call("stop", {host: () for host in self._actors}, timeout, "end")
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the actors at once, with which their agents end by themselves."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()

    def call(self, method: str, arguments: Mapping[str, Any], timeout: float, what: str) -> None:
        """Of every actor at once. Raises the first failure when all have answered."""
        answers = {getattr(self._actors[host], method).remote(*given): host for host, given in arguments.items()}
        done, late = self._ray.wait([*answers], num_returns=len(answers), timeout=timeout) if answers else ([], [])
        failures = [failure for one in done if (failure := self._failure(answers[one], one)) is not None]
        if failures:
            raise failures[0]
        if late:
            hosts = ", ".join(answers[one] for one in late)
            raise DeadlineError(f"the agent of host {hosts} does not {what} within {timeout:g} s")

    def _failure(self, host: str, answer: Any) -> Optional[WeightcastError]:
        try:
            failure = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()
            return PeerLostError(f"the actor of host {host}'s agent is lost: {why[0] if why else type(error).__name__}")
        return failure


class _Agent:
    """In its node's process. Failures are returned: Ray would wrap what is raised into a traceback of many lines."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._process: Optional[AgentProcess] = None

    def start(self, text: str, environment: Dict[str, str]) -> Optional[WeightcastError]:
        try:
            # Ray hides GPUs from an actor that has reserved none.
            if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
                del os.environ["CUDA_VISIBLE_DEVICES"]
            self._process = AgentProcess(text, self._host, environment)
        except WeightcastError as error:
            return _plain(error)
        return None

    def check(self) -> Optional[WeightcastError]:
        return self._do("check")

    def stop(self) -> Optional[WeightcastError]:
        return self._do("stop")

    def _do(self, what: str) -> Optional[WeightcastError]:
        try:
            if self._process is not None:
                getattr(self._process, what)()
        except WeightcastError as error:
            return _plain(error)
        return None


def _plain(error: WeightcastError) -> WeightcastError:
    """Without a cause, which may be what the other side cannot import."""
    return type(error)(str(error))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"weightcast.ray needs Ray, which cannot be imported: {error}") from error
    return ray


def _text(joins: Mapping[str, str], host: str) -> str:
    if host not in joins:
        raise UsageError(f"there is no join text of host {host}")
    return joins[host]


def _node(ray: Any, host: str, node: str) -> str:
    alive = [one for one in ray.nodes() if one["Alive"]]
    found = [
        one["NodeID"]
        for one in alive
        if node in (one["NodeID"], one["NodeManagerAddress"], one["NodeManagerHostname"], one.get("NodeName"))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"host {host}: {node} is {len(found)} nodes of Ray's; give the id of one")
    raise UsageError(f"host {host}: Ray has no living node {node}; it has {', '.join(one['NodeID'] for one in alive)}")
