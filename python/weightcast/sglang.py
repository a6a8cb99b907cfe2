"""Starts SGLang so that its workers speak weightcast's worker link: `python -m weightcast.sglang …`.

The arguments are those of `python -m sglang.launch_server`. SGLang's workers import
`checkpoint_engine.worker.update_weights_from_ipc` when they are asked to update; they find ours. Processes that
SGLang spawns run the main module of their parent once more, under the name `__mp_main__`, before anything else, so
it is in place in all of them.

A SGLang that has plug-ins needs none of this: `sglang_plugin.py`.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import runpy
import sys
import types

from weightcast.needed_packages import ending_without


def stand_in_for_checkpoint_engine() -> None:
    """Makes `import checkpoint_engine.worker` in this process find weightcast's function of the same name."""
    from . import worker

    def module(name: str, is_package: bool) -> types.ModuleType:
        made = types.ModuleType(name, f"weightcast in the place of {name}.")
        made.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=is_package)
        sys.modules[name] = made
        return made

    package = module("checkpoint_engine", is_package=True)
    package.__path__ = []
    submodule = module("checkpoint_engine.worker", is_package=False)
    vars(package)["worker"] = submodule
    vars(submodule)["update_weights_from_ipc"] = worker.update_weights_from_ipc


if __name__ == "__main__":
    with ending_without("weightcast.sglang"):
        # Its own error would come after seconds, and name a module that is run.
        if importlib.util.find_spec("sglang") is None:
            raise ModuleNotFoundError(name="sglang")
        stand_in_for_checkpoint_engine()
    # This module stays the main module, for processes that are spawned.
    runpy.run_module("sglang.launch_server", run_name="__main__")

if __name__ == "__mp_main__":
    stand_in_for_checkpoint_engine()
