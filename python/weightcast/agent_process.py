"""A process `weightcast agent`, the parent of this host's ranks, as a child of a launcher's process (Ray, torchrun)."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Deque, Mapping, Optional, TextIO

from . import agent_parent
from .client_errors import DeadlineError, PeerLostError, UsageError
from .publisher_start import command

#: The agent ends its ranks first, which finish their current copies.
_STOP_SECONDS = 120.0
#: Of one that was killed.
_KILL_SECONDS = 10.0
_RELAY_SECONDS = 1.0
#: Of what it says, for errors.
_LINES_KEPT = 20


class AgentProcess:
    """Runs until the cluster ends, `stop`, or the end of this process, however that comes.

    `join_text`: what `Client.join_file` returns, a secret: it travels in the environment, which only this user can read.
    `environment`: variables for the agent and its ranks, above those of this process. Raises `NotReadyError` if there is no
    command to start.
    """

    def __init__(self, join_text: str, host: str, environment: Optional[Mapping[str, str]] = None) -> None:
        if not join_text.strip():
            raise UsageError(f"the join text of host {host} is empty")
        self.host = host
        self._lines: Deque[str] = collections.deque(maxlen=_LINES_KEPT)
        self._words = [sys.executable, "-I", "-S", agent_parent.__file__, *command(), "agent"]
        self._environment = {**os.environ, **(environment or {}), "WEIGHTCAST_JOIN": join_text}
        self._failure: Optional[BaseException] = None
        self._process: Optional[subprocess.Popen[str]] = None
        self._started, self._ended = threading.Event(), threading.Event()
        # Linux counts the death of the thread that has started it as its parent's, so that one stays until the agent ends.
        threading.Thread(target=self._run, name=f"weightcast-agent-{host}", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise UsageError(f"the agent of host {host} cannot be started: {self._failure}")

    def check(self) -> None:
        """Raises `PeerLostError`, with what it said last, if it has ended otherwise than with its cluster."""
        if self._ended.is_set() and self._process is not None and self._process.returncode != 0:
            said = self._lines[-1] if self._lines else "it says nothing"
            raise PeerLostError(
                f"the agent of host {self.host} ended with {self._process.returncode}: {said}", retry=True
            )

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Whether it has ended, at most `timeout` seconds from now; None: however long it takes."""
        return self._ended.wait(timeout)

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Ends it and its ranks. Raises `DeadlineError` when it had to be killed. May be called twice."""
        if self._ended.is_set():
            return
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        if not self._ended.wait(timeout):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._ended.wait(_KILL_SECONDS)
            raise DeadlineError(f"the agent of host {self.host} did not end within {timeout:g} s and was killed")

    def _run(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._words,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # A launcher that signals its group means itself: the agent hears of its end by its parent's.
                start_new_session=True,
                preexec_fn=agent_parent.ends_with_parent(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._failure = error
            return
        finally:
            del self._environment
            self._started.set()
        try:
            # Its ranks have the same standard error, and may outlive it: the end of that is not its end.
            relay = threading.Thread(target=self._relay, args=(self._process.stderr,), daemon=True)
            relay.start()
            self._process.wait()
            # What it said last is in the pipe.
            relay.join(_RELAY_SECONDS)
        finally:
            self._ended.set()

    def _relay(self, lines: TextIO) -> None:
        for line in lines:
            self._lines.append(line.strip())
            # Whoever reads this process's own standard error may have gone.
            with contextlib.suppress(OSError, ValueError):
                print(line, end="", file=sys.stderr, flush=True)

