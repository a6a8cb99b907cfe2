"""The process between a launcher's and the agent; a program that needs nothing of this package.

Ray kills the children of a worker that ends with SIGKILL. The agent is not one of them: it gets SIGTERM when this process
dies, and ends its ranks before it ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import Callable

#: `prctl` option of <sys/prctl.h>: the signal that a process gets when the thread that has started it ends.
_PR_SET_PDEATHSIG = 1


def ends_with_parent() -> Callable[[], None]:
    """What a child calls before it becomes the program: SIGTERM is what it gets when its parent, this process, dies.

    The library is opened here, because a child must not take locks.
    """
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def main() -> None:
    """`agent_parent.py COMMAND…`: ends as it does."""
    if len(sys.argv) < 2:
        sys.exit("agent_parent.py is started by weightcast.ray, with the command of an agent")
    agent = subprocess.Popen(sys.argv[1:], preexec_fn=ends_with_parent())
    signal.signal(signal.SIGTERM, lambda *_: agent.send_signal(signal.SIGTERM))
    status = agent.wait()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
