"""Finds the daemon, or starts one."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from socket import gethostname
from typing import IO, List, Sequence

from .client import Client
from .client_errors import DeadlineError, NotReadyError, UsageError
from .client_http import default_socket

#: Between two looks whether it serves.
_PAUSE_SECONDS = 0.05


def started(
    client: Client,
    socket: str | None,
    linger: float | None,
    rank: int,
    options: Sequence[str],
    timeout: float,
) -> None:
    """Returns once a daemon answers `client`. If none does, rank 0 starts one, which ends `linger` seconds after its last
    client; with None nobody does, and it raises.

    Raises `NotReadyError` with the reason if it cannot be started, and `DeadlineError`.
    """
    if linger is None:
        client.status()
    if is_there(client):
        return
    if rank != 0:
        _wait(client, None, "", timeout)
        return
    path = socket or default_socket()
    log = f"{path}.log"
    words = [*command(), "serve", "--socket", path, "--linger", f"{linger:g}", *options]
    with _opened(path, log) as output:
        try:
            daemon = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # It is nobody's child: a signal to the trainer's terminal is none to the daemon.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotReadyError(f"no daemon serves, and {words[0]} cannot be started: {error}") from error
    # Its end is noticed whenever it comes, so that no zombie stays.
    threading.Thread(target=daemon.wait, name="weightcast-serve", daemon=True).start()
    _wait(client, daemon, log, timeout)


def _opened(path: str, log: str) -> IO[bytes]:
    """The log of the daemon with the socket `path`, whose directory is made. Raises `UsageError`."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
        return open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb")
    except OSError as error:
        raise UsageError(f"no daemon serves on {path}, and none can be started there: {error}; give another socket") from error


def is_there(client: Client) -> bool:
    """Whether a daemon answers."""
    try:
        client.status()
    except NotReadyError:
        return False
    return True


def _wait(client: Client, daemon: subprocess.Popen[bytes] | None, log: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not is_there(client):
        if daemon is not None and daemon.poll() is not None and not is_there(client):
            why = _last_line(log)
            # Somebody else starts one at the same time.
            if "another daemon serves" not in why:
                raise NotReadyError(f"weightcast serve ended with {daemon.returncode}: {why}")
        if time.monotonic() > end:
            what = (
                f"{log} has what it says"
                if log
                else f"rank 0 has not started it on host {gethostname()}; ranks of one trainer that publish are on one host"
            )
            raise DeadlineError(f"weightcast serve does not answer after {timeout:g} s; {what}")
        time.sleep(_PAUSE_SECONDS)


def command() -> List[str]:
    """WEIGHTCAST_COMMAND, else the program that lies in this package, else the command on the path."""
    from .command import CommandError, program

    chosen = os.environ.get("WEIGHTCAST_COMMAND")
    if chosen:
        return [chosen]
    try:
        return program()
    except CommandError as error:
        found = shutil.which("weightcast")
        if found is None:
            raise NotReadyError(f"no daemon serves, and none can be started: {error}") from error
        return [found]


def _last_line(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            lines = file.read().strip().splitlines()
    except OSError as error:
        return str(error)
    return lines[-1] if lines else "it says nothing"
