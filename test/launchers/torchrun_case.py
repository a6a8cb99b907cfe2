"""`weightcast.torchrun` in a process that torchrun has started, with agents that stand in. Argument: JSON with `scratch`.

The client says what a daemon would, which is another test's.
"""

import json
import os
import sys

import torch.distributed as distributed
from stand_in import StandIns, is_running, raised

from weightcast import torchrun
from weightcast.client_errors import NotFoundError, UsageError

given = json.loads(sys.argv[1])
node, local_rank, rank = (int(os.environ[name]) for name in ("GROUP_RANK", "LOCAL_RANK", "RANK"))
seen = StandIns(os.path.join(given["scratch"], f"agents-{node}"))
os.environ.update(seen.variables)


class Client:
    asked = []

    def join_file(self, host):
        self.asked.append(host)
        if host == "unknown":
            raise NotFoundError("the daemon has no host unknown that joins")
        return f"join text of {host}"


client = Client()

# All learn why, before any process group is there.
if node == 0 and rank != 0:
    assert torchrun.start_agent(client, hosts=[None, "unknown"]) is None
elif rank == 0 or local_rank == 0:
    said = raised(NotFoundError, lambda: torchrun.start_agent(client, hosts=[None, "unknown"]))
    assert "the daemon has no host unknown that joins" in said
assert "1 names, and the job 2 nodes" in raised(UsageError, lambda: torchrun.start_agent(client, hosts=[None]))

distributed.init_process_group("gloo")
distributed.barrier()
agent = torchrun.start_agent(client, environment={"NCCL_IB_HCA": f"mlx5_{node}"})
assert (agent is not None) == (node == 1 and local_rank == 0)
assert client.asked == (["unknown", "node-1"] if rank == 0 else []), client.asked
if agent is not None:
    (one,) = seen.started(1)
    assert one["environment"]["WEIGHTCAST_JOIN"] == "join text of node-1"
    assert one["environment"]["NCCL_IB_HCA"] == "mlx5_1"
    # It has been read, and is in the store no more.
    store = torchrun._store()
    assert not store.check([torchrun._key(1)])
    agent.check()
    agent.stop()
    assert not is_running(one["pid"])
distributed.barrier()
print("done")
