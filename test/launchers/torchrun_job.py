"""A job of torchrun's whose second node has an agent; ends when its input does, without a word to the agent."""

import os
import sys

from weightcast.torchrun import start_agent

agent = start_agent()
print(f"agent of node {os.environ['GROUP_RANK']} started" if agent is not None else "no agent here", flush=True)
sys.stdin.read()
