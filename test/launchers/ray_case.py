"""`weightcast.ray` with a Ray cluster of two nodes and agents that stand in. Argument: JSON with `scratch`."""

import json
import os
import sys

import ray
from ray.util.placement_group import placement_group
from ray_cluster import two_nodes
from stand_in import StandIns, is_running, raised

from weightcast.client_errors import PeerLostError, UsageError
from weightcast.ray import nodes_of, start_agents

JOINS = {"a": "join text of a", "b": "join text of b"}
agents_seen = StandIns(os.path.join(json.loads(sys.argv[1])["scratch"], "agents"))


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def raylet_of(pid):
    """The process of the node, whose child is the worker, whose child is the parent of the agent."""
    return parent_of(parent_of(parent_of(pid)))


def each_on_its_node(first, second, raylets):
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    # All of both nodes is taken, as engines take it: agents need none of it.
    ray.get(group.ready(), timeout=60)
    assert sorted(nodes_of(group)) == sorted([first, second])
    agents = start_agents(JOINS, {"a": first, "b": second}, environment={"NCCL_IB_HCA": "mlx5_0"})
    assert agents.hosts == ["a", "b"]
    seen = agents_seen.started(2)
    for one, text in zip(seen, JOINS.values()):
        assert one["words"] == ["agent"], one
        environment = one["environment"]
        assert environment["WEIGHTCAST_JOIN"] == text and environment["NCCL_IB_HCA"] == "mlx5_0", one
        assert environment.get("CUDA_VISIBLE_DEVICES") != "", one
    assert [raylet_of(one["pid"]) for one in seen] == raylets
    agents.check()
    agents.stop()
    agents.stop()
    for one in seen:
        agents_seen.await_end(one["pid"])
        os.unlink(os.path.join(agents_seen.directory, f"{one['pid']}.json"))


def wrong_words(first):
    assert "no living node nowhere" in raised(UsageError, lambda: start_agents(JOINS, {"a": "nowhere"}))
    assert "no join text of host c" in raised(UsageError, lambda: start_agents(JOINS, {"c": first}))
    # Both have it.
    address = ray.util.get_node_ip_address()
    assert "is 2 nodes of Ray's" in raised(UsageError, lambda: start_agents(JOINS, {"a": address}))


def one_that_fails(second):
    agents = start_agents(JOINS, {"b": second}, environment={"STAND_IN_FAILS": "1"})

    def check():
        while True:
            agents.check()

    said = raised(PeerLostError, check)
    assert said == (
        "the agent of host b ended with 1: UsageError: WEIGHTCAST_JOIN is not a join file: it is not JSON"
    ), said
    agents.stop()


def ended_without_a_word(second):
    agents = start_agents(JOINS, {"b": second})
    (seen,) = agents_seen.started(1)
    agents.kill()
    agents_seen.await_end(seen["pid"])
    os.unlink(os.path.join(agents_seen.directory, f"{seen['pid']}.json"))


assert "call ray.init first" in raised(UsageError, lambda: start_agents(JOINS, {"a": "x"}))
with two_nodes({**agents_seen.variables, "PYTHONPATH": os.environ["PYTHONPATH"]}) as (first, second, raylets):
    each_on_its_node(first, second, raylets)
    wrong_words(first)
    one_that_fails(second)
    ended_without_a_word(second)
    agents = start_agents(JOINS, {"a": first, "b": second})
    seen = agents_seen.started(2)
# The job has ended.
for one in seen:
    agents_seen.await_end(one["pid"])
print("done")
