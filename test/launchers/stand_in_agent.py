"""Stands in for `weightcast agent` where only its launcher is tested: writes down how it was started, and waits for its end.

Files in the directory STAND_IN: PID.json when it begins, PID.ended when SIGTERM ends it. With STAND_IN_FAILS it says why it
cannot go on, as the agent does, and ends.
"""

import json
import os
import signal
import sys

directory = os.environ["STAND_IN"]
if "STAND_IN_FAILS" in os.environ:
    sys.exit("UsageError: WEIGHTCAST_JOIN is not a join file: it is not JSON")


def end(*_):
    open(os.path.join(directory, f"{os.getpid()}.ended"), "w").close()
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
kept = ("WEIGHTCAST_JOIN", "RAY_JOB_ID", "CUDA_VISIBLE_DEVICES", "NCCL_IB_HCA")
facts = {
    "pid": os.getpid(),
    "words": sys.argv[1:],
    "environment": {name: os.environ[name] for name in kept if name in os.environ},
}
path = os.path.join(directory, f"{os.getpid()}.json")
with open(path + ".new", "w") as file:
    json.dump(facts, file)
os.rename(path + ".new", path)
while True:
    signal.pause()
