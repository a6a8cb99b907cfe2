"""What bench/daemon.ts measures: steps of a trainer by its publisher. Prints JSON."""

import json
import os
import sys
import time

import weightcast

given = json.loads(sys.argv[1])
publisher = weightcast.connect(given["socket"], start=False)
publisher.add_instance("a", given["endpoint"], range(given["ranks"]))


def tensors(step):
    return {name: ("BF16", dimensions, bytes([step % 251]) * nbytes) for name, dimensions, nbytes in given["layout"]}


def processes(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [pid] + [one for child in file.read().split() for one in processes(int(child))]


def role(pid):
    """The daemon, or the program of one of its processes: `supervisor`, `rank`."""
    if pid == given["pid"]:
        return "daemon"
    with open(f"/proc/{pid}/cmdline") as file:
        program = next(word for word in file.read().split("\0") if word.endswith("-process.js"))
    return os.path.basename(program).removesuffix("-process.js")


def held():
    """Of the daemon and its processes: megabytes of each role, for several ranks of the one with most, and of this process;
    open files; and files in their shared memory."""
    memory, files, shared = {}, 0, 0
    for pid in [*processes(given["pid"]), os.getpid()]:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line and not line.startswith(" "))
        megabytes = sum(int(lines[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024
        if pid == os.getpid():
            memory["trainer"] = megabytes
            continue
        memory[role(pid)] = max(memory.get(role(pid), 0), megabytes)
        links = [os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd")]
        files += len(links)
        locks = [link for link in links if link.startswith("/dev/shm/weightcast-") and link.endswith("/lock")]
        shared += sum(len(os.listdir(os.path.dirname(lock))) for lock in locks if "device" not in lock)
    return {"megabytes": memory, "files": files, "shared": shared}


beyond, steps, before = [], [], None
for step in range(given["warmup"] + given["steps"]):
    begun = time.perf_counter()
    with publisher.version(f"step-{step}") as version:
        version.put_all(tensors(step).items())
    registered = time.perf_counter()
    report = publisher.update().report
    ended = time.perf_counter()
    if step == given["warmup"]:
        before = held()
    if step >= given["warmup"]:
        beyond.append(1000 * (ended - registered - report.seconds))
        steps.append(1000 * (ended - begun))
print(json.dumps({"beyond": beyond, "steps": steps, "before": before, "after": held()}))
