"""A Ray cluster of two nodes on this machine, and the job that tests run in."""

import contextlib
import logging
import os
import time

#: A busy machine takes longer than the 30 s that Ray gives a raylet to start.
START_SECONDS = 240
os.environ.setdefault("RAY_raylet_start_wait_time_s", f"{START_SECONDS}")

import ray
from ray._private import services
from ray.cluster_utils import Cluster

#: Of one node, without which Ray takes a third of the machine's memory.
STORE_BYTES = 100 * 2**20


get_node = services.get_node


def awaited_node(*which):
    """`get_node` of a node that may still be starting: in Python its 30 s are no setting."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return get_node(*which)
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


services.get_node = awaited_node


@contextlib.contextmanager
def two_nodes(variables):
    """The ids of the first, in which this program is, and of the second; and the numbers of their raylets' processes."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        },
    )
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        ray.init(
            address=cluster.address,
            runtime_env={"env_vars": variables},
            logging_level=logging.ERROR,
        )
        try:
            nodes = [cluster.head_node, second]
            yield *(node.node_id for node in nodes), [raylet_of(node) for node in nodes]
        finally:
            ray.shutdown()
    finally:
        cluster.shutdown()


def raylet_of(node):
    (raylet,) = node.all_processes["raylet"]
    return raylet.process.pid
