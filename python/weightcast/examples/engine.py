"""A small inference engine that weightcast updates, on the CPU or a GPU.

    python -m weightcast.examples.engine --port 8000

What an engine of your own needs is in `tiny_engine.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading

from ..needed_packages import ending_without


def _end_with_input() -> None:
    """Whoever started this process holds the other end, however it ends."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weightcast.examples.engine", description="A small engine."
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port; default: 8000")
    parser.add_argument(
        "--end-with-input", action="store_true", help="end when standard input does, and so with a parent"
    )
    options = parser.parse_args()
    with ending_without("weightcast.examples.engine"):
        from .tiny_engine import serve
    if options.end_with_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        serve(options.port)
    except (OSError, OverflowError) as error:
        sys.exit(f"weightcast.examples.engine: port {options.port}: {error}")


if __name__ == "__main__":
    main()
