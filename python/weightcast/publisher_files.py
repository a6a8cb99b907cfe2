"""The files of one version in shared memory, mapped for writing."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from typing import List

from .client_errors import HostMemoryError
from .publisher_layout import HEADER_ROOM, Layout, Place

#: Mappings begin on multiples of it.
_PAGE = mmap.ALLOCATIONGRANULARITY


class VersionFiles:
    """Grows with its layout; once it is complete all of it stays mapped, to be written again."""

    def __init__(self, prefix: str) -> None:
        """`prefix`: path of the files, without their numbers. They are made when they are first needed."""
        self._prefix = prefix
        self._descriptors: List[int] = []
        self._mappings: List[mmap.mmap] = []

    @property
    def paths(self) -> List[str]:
        return [self._path(index) for index in range(len(self._descriptors))]

    def memory(self, place: Place) -> memoryview:
        """The bytes of a tensor, to be written. Raises `HostMemoryError`, and `FileNotFoundError` for a directory that is gone."""
        if place.nbytes == 0:
            # Its file has to exist all the same.
            self._descriptor(place.file)
            return memoryview(bytearray())
        if place.file < len(self._mappings):
            return memoryview(self._mappings[place.file])[place.offset : place.offset + place.nbytes]
        descriptor = self._descriptor(place.file)
        self._reserve(descriptor, place.offset, place.nbytes)
        begin = place.offset // _PAGE * _PAGE
        mapping = mmap.mmap(descriptor, place.offset + place.nbytes - begin, offset=begin)
        return memoryview(mapping)[place.offset - begin :]

    def seal(self, layout: Layout) -> List[str]:
        """Writes what is missing but the tensors, stamps the files with the time, and returns their paths."""
        for index, size in enumerate(layout.file_bytes):
            descriptor = self._descriptor(index)
            if index == len(self._mappings):
                self._reserve(descriptor, 0, HEADER_ROOM)
                os.pwrite(descriptor, layout.header(index), 0)
                self._mappings.append(mmap.mmap(descriptor, size))
        self.stamp()
        return self.paths

    def stamp(self) -> None:
        """Says that the content has changed: writes to mapped memory leave no trace in a file's times."""
        for descriptor in self._descriptors:
            now = time.time_ns()
            os.utime(descriptor, ns=(now, now))

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

    def remove(self) -> None:
        """Closes, and removes the files."""
        paths = self.paths
        self.close()
        for path in paths:
            try:
                os.unlink(path)
            except OSError:
                pass

    def _path(self, index: int) -> str:
        return f"{self._prefix}-{index}.safetensors"

    def _descriptor(self, index: int) -> int:
        while len(self._descriptors) <= index:
            path = self._path(len(self._descriptors))
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptors.append(os.open(path, flags, 0o600))
        return self._descriptors[index]

    def _reserve(self, descriptor: int, offset: int, nbytes: int) -> None:
        try:
            # Now, because a write to a mapping of full memory would end the process.
            os.posix_fallocate(descriptor, offset, nbytes)
        except OSError as error:
            raise HostMemoryError(
                f"shared memory cannot take {nbytes} bytes more ({self._prefix}): {error.strerror}"
            ) from error


def address_of(memory: memoryview) -> int:
    """Of writable memory; it has to be kept alive by its owner."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
