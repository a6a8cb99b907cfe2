"""Packages that a part of this one works with, and that are not installed with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Imports in it that find no package say for what it is needed. Raises `ModuleNotFoundError`, of one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "weightcast"):
            raise
        raise ModuleNotFoundError(
            f"{what} needs {package}, which is not installed for {sys.executable}", name=error.name
        ) from error


@contextmanager
def ending_without(program: str) -> Iterator[None]:
    """The same for a program: it ends with that line."""
    try:
        with needed_by(program):
            yield
    except ModuleNotFoundError as error:
        sys.exit(str(error))
