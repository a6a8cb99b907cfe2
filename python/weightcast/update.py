"""Updates a running engine from a checkpoint, in the way of checkpoint-engine's `examples/update.py` (0.4).

    torchrun --nproc-per-node 8 -m weightcast.update --checkpoint-path DIR

Its options are those of that program, and four of weightcast's own. The daemon asks the engine, and not this program. The
environment variable WEIGHTCAST_ENGINE_API_KEY holds the engine's API key, if it has one.
"""

from __future__ import annotations

import argparse
import os
import sys

from .client_checks import seconds_of
from .client_errors import AccessError, CheckpointError, DaemonError, HostMemoryError, NotFoundError, UsageError
from .compat.settings import environment_number
from .needed_packages import ending_without

#: Others may pass by themselves.
_INPUT = (UsageError, NotFoundError, AccessError, CheckpointError, HostMemoryError)


def main() -> None:
    options = _options()
    with ending_without("weightcast.update"):
        from .compat.engine_updater import run
    try:
        run(options, environment_number("RANK"), environment_number("WORLD_SIZE"))
    except (DaemonError, OSError) as error:
        print(f"weightcast.update: rank {os.environ.get('RANK', '?')}: {error}", file=sys.stderr)
        # As the command `weightcast` ends.
        sys.exit(2 if isinstance(error, _INPUT) else 1)


def _seconds(text: str) -> float:
    try:
        return seconds_of("it", float(text))
    except (UsageError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from error


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m weightcast.update", description="Updates a running engine."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint-path", help="directory with safetensors files")
    source.add_argument(
        "--load-metas-file", help="read the weights from the memory of the group that saved this file"
    )
    source.add_argument("--metas-url", help="the same, by a URL that answers with the file")
    parser.add_argument("--save-metas-file", help="write a file for --load-metas-file; see --sleep-time")
    parser.add_argument("--sleep-time", type=_seconds, default=0, help="seconds to stay readable after the update")
    parser.add_argument(
        "--endpoint", default="http://localhost:19730", help="of the engine; default: %(default)s"
    )
    parser.add_argument("--uds", help="path of the engine's Unix socket, in place of the endpoint's address")
    parser.add_argument(
        "--inference-parallel-size", type=int, default=8, help="at most so many workers; default: 8"
    )
    parser.add_argument("--checkpoint-name", default="my-checkpoint-iter-0")
    parser.add_argument(
        "--update-method",
        choices=("broadcast", "p2p", "all"),
        default="broadcast",
        help="all updates twice; both ways are one here; default: broadcast",
    )
    parser.add_argument(
        "--custom-dist",
        choices=("vllm_nccl", "vllm_hccl"),
        help="changes nothing: weights go through weightcast's own ranks",
    )
    parser.add_argument("--engine", choices=("vllm", "sglang"), default="vllm")
    parser.add_argument(
        "--link",
        choices=("weightcast", "checkpoint-engine"),
        help="what the engine's workers speak; default: a vLLM is asked, an SGLang has weightcast's plug-in",
    )
    parser.add_argument("--timeout", type=_seconds, default=600, help="of an update, in seconds; default: 600")
    parser.add_argument(
        "--ready-timeout",
        type=_seconds,
        default=3_600,
        help="until the engine is healthy, in seconds; default: 3600",
    )
    options = parser.parse_args()
    if options.save_metas_file is not None and options.checkpoint_path is None:
        parser.error("--save-metas-file needs --checkpoint-path")
    return options


if __name__ == "__main__":
    main()
