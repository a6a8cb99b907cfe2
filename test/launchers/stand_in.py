"""Agents that stand in, as tests see them."""

import json
import os
import stat
import sys
import time

PATIENCE = 60.0


class StandIns:
    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        command = os.path.join(directory, "weightcast")
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stand_in_agent.py")
        with open(command, "w") as file:
            file.write(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
        os.chmod(command, stat.S_IRWXU)
        self.variables = {"WEIGHTCAST_COMMAND": command, "STAND_IN": directory}

    def started(self, count):
        """What they wrote down, in the order of their join texts."""

        def facts():
            names = [name for name in os.listdir(self.directory) if name.endswith(".json")]
            found = [json.load(open(os.path.join(self.directory, name))) for name in names]
            return sorted(found, key=lambda one: one["environment"]["WEIGHTCAST_JOIN"])

        eventually(f"{count} agents run", lambda: len(facts()) == count)
        return facts()

    def await_end(self, pid):
        """By SIGTERM, so that its ranks end before it does."""
        path = os.path.join(self.directory, f"{pid}.ended")
        eventually(f"agent {pid} ends", lambda: os.path.exists(path) and not is_running(pid))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(what, holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


def raised(kind, call):
    """The words of the error that `call` raises, one line."""
    try:
        call()
    except kind as error:
        assert type(error) is kind and "\n" not in str(error), repr(error)
        return str(error)
    raise AssertionError(f"it raised no {kind.__name__}")
