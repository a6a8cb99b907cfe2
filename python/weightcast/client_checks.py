"""Arguments that are checked before anything is done with them: by the daemon they would be refused after the work, or never."""

from __future__ import annotations

import math
import operator
import os
import unicodedata
import urllib.parse
from typing import Any, Dict, Iterable, List, Mapping, Optional

from .client_errors import UsageError

#: A year. Longer ones are mistakes, and no timer takes them.
_LONGEST_SECONDS = 365 * 86_400
#: The daemon's own limit.
_LONGEST_NAME = 256
#: Controls, halves of characters, ends of lines, and what turns the direction of writing.
_REFUSED_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def seconds_of(option: str, value: Any, least: float = 0.0) -> float:
    """A time in seconds. Raises `UsageError`."""
    try:
        seconds = float(value) if not isinstance(value, (str, bytes)) else math.nan
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not least <= seconds <= _LONGEST_SECONDS:
        raise UsageError(f"{option} is {value!r}; it is a number of seconds, from {least:g} to {_LONGEST_SECONDS}")
    return seconds


def name_of(option: str, value: Any) -> str:
    """The name of a checkpoint or a version. Raises `UsageError`."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME or value in (".", ".."):
        shown = repr(value)
        raise UsageError(f"{option} is {shown[:80]}; it is a text of 1 to {_LONGEST_NAME} characters, other than . and ..")
    for character in value:
        if unicodedata.category(character) in _REFUSED_CATEGORIES or character in _BIDIRECTIONAL:
            raise UsageError(f"{option} is {ascii(value)}; it has the character {ascii(character)}, which no name has")
    return value


def count_of(option: str, value: Any, least: int) -> int:
    """A whole number. Raises `UsageError`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise UsageError(f"{option} is {value!r}; it is a whole number, at least {least}")
    return count


def list_of(option: str, values: Optional[Iterable[Any]]) -> Optional[List[Any]]:
    """None stays None. Raises `UsageError` for one value or one word, which would be a list of its letters."""
    if values is None:
        return None
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise UsageError(f"{option} is {values!r}; give a list, such as [{values!r}]")
    return list(values)


def worker_groups_of(workers: Optional[Iterable[Mapping[str, Any]]]) -> Optional[List[Dict[str, Any]]]:
    """The workers of each host. Raises `UsageError`."""
    groups = list_of("workers", workers)
    if groups is None:
        return None
    for group in groups:
        if not isinstance(group, Mapping):
            raise UsageError(f'workers has {group!r}; give what each host has, such as {{"host": "node-2", "devices": [0, 1]}}')
    lists = ("ranks", "devices")
    return [{key: list_of(key, value) if key in lists else value for key, value in group.items()} for group in groups]


def engine_address(option: str, endpoint: Any, schemes: Iterable[str] = ("http", "https")) -> urllib.parse.SplitResult:
    """The parts of an engine's URL. Raises `UsageError`."""
    try:
        parts = urllib.parse.urlsplit(str(endpoint))
        # The port is parsed when it is asked for, and the name when it is looked up.
        is_whole = parts.port != 0 and bool((parts.hostname or "").encode("idna") or parts.scheme == "unix")
    except ValueError:
        is_whole = False
    if not is_whole or parts.scheme not in schemes:
        raise UsageError(f"{option} is {endpoint!r}; it must be a URL such as http://10.0.0.1:8000")
    return parts


def absolute_path(option: str, path: Any) -> str:
    """Raises `UsageError` for what is no path."""
    try:
        return os.path.abspath(os.fspath(path))
    except TypeError as error:
        raise UsageError(f"{option}: {path!r} is no path") from error


def quoted(name: str) -> str:
    """A name as a part of a URL's path. Raises `UsageError`."""
    try:
        return urllib.parse.quote(name, safe="")
    except (TypeError, UnicodeEncodeError) as error:
        raise UsageError(f"{name!r} is no name") from error


def given(options: Dict[str, Any]) -> Dict[str, Any]:
    """Without those that are None."""
    return {name: value for name, value in options.items() if value is not None}
