"""A job of Ray's whose second node has an agent; ends when its input does, without a word to the agent."""

import os
import sys

from ray_cluster import two_nodes

from weightcast.client import Client
from weightcast.ray import start_agents

kept = ("PYTHONPATH", "WEIGHTCAST_COMMAND", "WEIGHTCAST_SOCKET", "WEIGHTCAST_TEST_LAUNCH")
with two_nodes({name: os.environ[name] for name in kept}) as (_, second, _):
    agents = start_agents(Client(), {"node-1": second})
    print("agent started", flush=True)
    sys.stdin.read()
    agents.check()
