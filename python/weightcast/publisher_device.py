"""Versions in the memory of a device: a rank on the same device copies them from there, without host memory.

There is one set of memory, which each version is written to again: the version before is unregistered when the next one is
begun. Nothing of it outlives this process, and only ranks on this device can read it.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Optional

from .client import Client
from .client_errors import BusyError, DaemonError, NotFoundError
from .publisher_buffers import Buffers
from .publisher_files import VersionFiles
from .publisher_layout import HEADER_ROOM, Layout, Place
from .publisher_memory import Allocation
from .tensor_files import unlink

#: What one allocation has for tensors; a larger tensor has one of its own.
ALLOCATION_BYTES = 256 << 20
#: What the metadata of a header takes at most: a UUID, and a handle or path in hex.
METADATA_BYTES = 1024

#: Between two tries to unregister while an update reads the version.
_BUSY_SECONDS = 0.02
#: For an update that still reads the last version when the publisher is closed.
_CLOSE_SECONDS = 60.0


def device_layout() -> Layout:
    return Layout(ALLOCATION_BYTES, METADATA_BYTES)


class DeviceFiles(VersionFiles):
    """Files with headers alone, which say where the tensors are."""

    def __init__(self, prefix: str, number: int, memory: Any) -> None:
        super().__init__(prefix, number)
        self._memory = memory
        #: By the numbers of files.
        self._allocations: Dict[int, Allocation] = {}
        self._is_finished = False

    @property
    def is_whole(self) -> bool:
        return self._is_finished

    def reserve(self, place: Place) -> None:
        # Beyond `ALLOCATION_BYTES` a file has but one tensor.
        nbytes = max(HEADER_ROOM + ALLOCATION_BYTES, place.offset + place.nbytes)
        known = self._allocations.get(place.file)
        if known is not None and known.nbytes < nbytes:
            # It was made for a smaller tensor, which was not given after all: there is nothing in it.
            self._allocations.pop(place.file).free()
            known = None
        if known is None:
            self._allocations[place.file] = self._memory.allocate(nbytes)
        self._descriptor(place.file)

    def memory(self, place: Place) -> Any:
        return self._allocations[place.file].memory[place.offset : place.offset + place.nbytes]

    def finish(self, layout: Layout) -> List[str]:
        self._memory.finish()
        if not self._is_finished:
            self._cut(len(layout.file_bytes))
            for index in range(len(layout.file_bytes)):
                where = {"device": self._memory.uuid, "handle": self._allocations[index].handle.hex()}
                os.pwrite(self._descriptor(index), layout.header(index, where), 0)
            self._is_finished = True
        self.stamp()
        return self.paths

    def map(self, layout: Layout) -> None:
        pass

    def each_mapping(self, use: Callable[[memoryview], None]) -> None:
        pass

    def close(self) -> None:
        super().close()
        for allocation in self._allocations.values():
            allocation.free()
        self._allocations = {}

    def _cut(self, count: int) -> None:
        super()._cut(count)
        for index in [index for index in self._allocations if index >= count]:
            self._allocations.pop(index).free()

    def _path(self, index: int) -> str:
        return f"{self._prefix}-{index}.device"


class DeviceBuffers(Buffers):
    """The memory of a publisher on a device."""

    def __init__(self, client: Client, on_drop: Callable[[int], None], checkpoint: str, memory: Any) -> None:
        super().__init__(client, on_drop)
        self._checkpoint = checkpoint
        self._memory = memory
        self._current: Optional[DeviceFiles] = None
        self._may_be_registered = False
        self._is_stale = False

    def take(self, end: float) -> VersionFiles:
        self.check_alive()
        self._withdraw(end)
        current = self._current
        if current is not None and (self._is_stale or current.are_gone or not current.is_whole):
            self._remove()
        if self._current is None:
            self._last += 1
            self._current = DeviceFiles(self.path(str(self._last)), self._last, self._memory)
        self._current.stamp()
        return self._current

    def registered(self, files: VersionFiles, checkpoint: str) -> None:
        self._may_be_registered = True

    def drop(self, files: VersionFiles, made: int = 0) -> None:
        self._is_stale = True

    def forget(self, files: VersionFiles) -> None:
        self._may_be_registered = True
        self._is_stale = True

    def close(self) -> None:
        try:
            self._withdraw(time.monotonic() + _CLOSE_SECONDS)
        except DaemonError:
            # The daemon withdraws it, now that this session ends.
            pass
        self._remove()
        super().close()

    def _remove(self) -> None:
        if self._current is not None:
            paths = self._current.paths
            self._current.close()
            for path in paths:
                unlink(path)
        self._current = None
        self._is_stale = False

    def _withdraw(self, end: float) -> None:
        """Returns when no rank reads the version before any more. Raises `BusyError` if an update still does at the end."""
        while self._may_be_registered:
            try:
                self._client.unregister(self._checkpoint)
            except NotFoundError:
                pass
            except BusyError:
                if time.monotonic() > end:
                    raise
                time.sleep(_BUSY_SECONDS)
                continue
            self._may_be_registered = False
