"""Hatch's build hook: a wheel with the program in it (`npm run build:wheel`) fits one kind of machine only."""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelTag(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        tag = os.environ.get("WEIGHTCAST_WHEEL_TAG")
        if tag is not None:
            build_data["tag"] = tag
            build_data["pure_python"] = False
