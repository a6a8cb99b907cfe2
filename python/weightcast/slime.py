"""weightcast behind slime's full weight sync over a disk (and that of miles, which has the same hook):

    --update-weight-mode full --update-weight-transport disk --update-weight-disk-dir /dev/shm/policy
    --custom-update-weight-post-write-path weightcast.slime.post_write

slime writes each version as a Hugging Face directory, and calls the hook before its own engines read it. The hook
registers the directory with the daemon, and updates the daemon's instances: a fleet that slime does not manage itself.
Engines that slime has started read the files as well, on slime's word, so do not add those. A delta is refused: it is no
checkpoint. Options come as an attribute `weightcast` of slime's arguments, a dict that `--custom-config-path` can set:
`checkpoint`, `engines` (URLs, or dicts of `Client.add_instance`), `instances`, `update` (arguments of `Client.update`),
and those of `weightcast.connect`. Importing this needs nothing of slime.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Optional

from .client_errors import CheckpointError, UsageError
from .needed_packages import needed_by
from .trainers import ensure_instances, update_options

_INDEX = "model.safetensors.index.json"


def post_write(args: Any, version_dir: str, rollout_engines: Any) -> None:
    """What slime calls on every rank, when the files of a version are written. Rank 0 acts; slime's barrier holds the
    others. Returns when the instances have the weights. Raises `DaemonError`.
    """
    if _rank() > 0:
        return
    metadata = _metadata_of(version_dir)
    if metadata is None:
        # slime's delta mode calls it once with the directory that the versions will be in.
        if not any(name.endswith(".safetensors") for name in os.listdir(version_dir)):
            return
    elif "delta_encoding" in metadata:
        raise UsageError(f"{version_dir} is a delta: use --update-weight-mode full")
    options = dict(getattr(args, "weightcast", None) or {})
    checkpoint = options.pop("checkpoint", "policy")
    engines, instances, update = (options.pop(name, None) for name in ("engines", "instances", "update"))
    publisher = _connected(options)
    names = ensure_instances(publisher.client, engines or [])
    publisher.client.register(checkpoint, version_dir)
    wanted = [*(instances or []), *names] or None
    publisher.client.update(checkpoint, **update_options(update, wanted))


#: Connections of this process by their options: a daemon that was started for one lives as long as it.
_publishers: Dict[str, Any] = {}


def _connected(options: Dict[str, Any]) -> Any:
    import weightcast

    key = json.dumps(options, sort_keys=True)
    if key not in _publishers:
        _publishers[key] = weightcast.connect(**options)
    return _publishers[key]


def _metadata_of(directory: str) -> Optional[Dict[str, Any]]:
    """Of its index; None if it has none, as a model in one file. Raises `CheckpointError`."""
    path = os.path.join(directory, _INDEX)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file).get("metadata", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _rank() -> int:
    with needed_by("weightcast.slime"):
        import torch.distributed as group

    return group.get_rank() if group.is_initialized() else 0
