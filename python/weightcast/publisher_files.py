"""The files of one version in shared memory, mapped for writing."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import time
from typing import Callable, List

from .client_errors import CheckpointError, HostMemoryError, NotReadyError
from .publisher_layout import HEADER_ROOM, Layout, Place
from .tensor_files import unlink

#: Mappings begin on multiples of it.
_PAGE = mmap.ALLOCATIONGRANULARITY


class VersionFiles:
    """Files of one prefix. They grow with their layout; when it is whole all of it stays mapped, to be written again."""

    def __init__(self, prefix: str, number: int) -> None:
        """`prefix`: path of the files, without their numbers. They are made when they are first needed."""
        #: Of these files among those of their publisher.
        self.number = number
        self._prefix = prefix
        self._descriptors: List[int] = []
        self._mappings: List[mmap.mmap] = []

    @property
    def paths(self) -> List[str]:
        return [self._path(index) for index in range(len(self._descriptors))]

    @property
    def is_whole(self) -> bool:
        """Whether they have headers and are mapped."""
        return len(self._mappings) > 0

    @property
    def are_gone(self) -> bool:
        """Whether the daemon has removed them: it is not sure that nobody reads them."""
        return any(os.fstat(descriptor).st_nlink == 0 for descriptor in self._descriptors)

    def try_lock(self) -> bool:
        """Whether nobody receives from them; until `unlock` nobody does."""
        try:
            for descriptor in self._descriptors:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.unlock()
            return False
        return True

    def unlock(self) -> None:
        for descriptor in self._descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def reserve(self, place: Place) -> None:
        """Makes sure of a new tensor's memory. Raises `HostMemoryError`."""
        descriptor = self._descriptor(place.file)
        if place.nbytes > 0:
            self._allocate(descriptor, place.offset, place.nbytes)

    def memory(self, place: Place) -> memoryview:
        """The bytes of a tensor that has its memory, to be written."""
        if place.nbytes == 0:
            return memoryview(bytearray())
        if place.file < len(self._mappings):
            memory = memoryview(self._mappings[place.file])[place.offset : place.offset + place.nbytes]
            if memory.nbytes != place.nbytes:
                raise CheckpointError(f"{self._path(place.file)} ends before byte {place.offset + place.nbytes}")
            return memory
        begin = place.offset // _PAGE * _PAGE
        length = place.offset + place.nbytes - begin
        mapping = self._mapped(place.file, length, begin)
        return memoryview(mapping)[place.offset - begin :]

    def finish(self, layout: Layout) -> List[str]:
        """Writes headers, stamps the files with the time, and returns their paths."""
        if not self.is_whole:
            self._cut(len(layout.file_bytes))
            for index, size in enumerate(layout.file_bytes):
                descriptor = self._descriptor(index)
                # More was reserved for a tensor that was not given after all.
                os.ftruncate(descriptor, size)
                self._allocate(descriptor, 0, HEADER_ROOM)
                os.pwrite(descriptor, layout.header(index), 0)
            self.map(layout)
        self.stamp()
        return self.paths

    def map(self, layout: Layout) -> None:
        """Once they are whole."""
        if not self.is_whole:
            self._mappings = [self._mapped(index, size) for index, size in enumerate(layout.file_bytes)]

    def stamp(self) -> None:
        """Says that the content changes, or has changed: writes to mapped memory leave no trace in a file's times."""
        for descriptor in self._descriptors:
            now = time.time_ns()
            os.utime(descriptor, ns=(now, now))

    def each_mapping(self, use: Callable[[memoryview], None]) -> None:
        for mapping in self._mappings:
            use(memoryview(mapping))

    def close(self) -> None:
        """Lets go of the files. May be called twice."""
        for mapping in self._mappings:
            try:
                mapping.close()
            except BufferError:
                # Somebody still holds a view; it goes with that.
                pass
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._mappings, self._descriptors = [], []

    def remove(self, made: int = 0) -> None:
        """Closes, and removes the files; `made`: so many there are, some of which only other processes have made."""
        count = max(made, len(self._descriptors))
        self.close()
        for index in range(count):
            unlink(self._path(index))

    def _cut(self, count: int) -> None:
        """Removes what has a number of `count` or more: it was made for tensors that were not given after all."""
        for index in reversed(range(count, len(self._descriptors))):
            os.close(self._descriptors.pop())
            unlink(self._path(index))

    def _path(self, index: int) -> str:
        return f"{self._prefix}-{index}.safetensors"

    def _descriptor(self, index: int) -> int:
        while len(self._descriptors) <= index:
            path = self._path(len(self._descriptors))
            self._descriptors.append(opened(path, os.O_RDWR | os.O_CREAT))
        return self._descriptors[index]

    def _mapped(self, index: int, length: int, offset: int = 0) -> mmap.mmap:
        try:
            return mmap.mmap(self._descriptor(index), length, offset=offset)
        except (OSError, ValueError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise HostMemoryError(f"{length} bytes of {self._path(index)} cannot be mapped: {why}") from error

    def _allocate(self, descriptor: int, offset: int, nbytes: int) -> None:
        try:
            # Now, because a write to a mapping of full memory would end the process.
            os.posix_fallocate(descriptor, offset, nbytes)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "no file is that long"
            raise HostMemoryError(f"shared memory cannot take {nbytes} bytes more ({self._prefix}): {why}") from error


def opened(path: str, flags: int) -> int:
    """A descriptor of a file of this user's. Raises `NotReadyError` if its directory is gone, with the daemon, and
    `HostMemoryError` if it cannot be made."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise NotReadyError(f"{path} is gone, with the daemon that had it", retry=True) from error
    except OSError as error:
        raise HostMemoryError(f"{path} cannot be opened: {error.strerror}") from error


def address_of(memory: memoryview) -> int:
    """Of writable memory; its owner has to keep it alive."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
