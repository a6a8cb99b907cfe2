#include "memory/source_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace weightcast {
namespace {

constexpr uint64_t kPage = 4096;

/// struct statx as of Linux 6.1, which older headers do not have.
struct AlignmentStatus {
  uint32_t mask;
  uint8_t before[148];
  uint32_t memory_alignment;
  uint32_t offset_alignment;
  uint8_t after[96];
};
static_assert(sizeof(AlignmentStatus) == 256, "the size that the kernel writes");
constexpr unsigned kDirectAlignment = 0x2000;  // STATX_DIOALIGN

bool IsPowerOfTwo(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

/// Takes the bytes that have come off the places that wait for them.
void Advance(std::vector<iovec>& places, size_t* first, uint64_t count) {
  while (count > 0) {
    iovec& place = places[*first];
    const uint64_t filled = std::min<uint64_t>(count, place.iov_len);
    place.iov_base = static_cast<uint8_t*>(place.iov_base) + filled;
    place.iov_len -= filled;
    count -= filled;
    if (place.iov_len == 0) ++*first;
  }
}

}  // namespace

SourceFile::SourceFile(std::string path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a FIFO must not wait for its other end.
  file_ = UniqueFd(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file_) throw Failure::System(errno, "cannot open " + path_);
  struct stat found{};
  if (fstat(file_.get(), &found) != 0) throw Failure::System(errno, "cannot examine " + path_);
  if (!S_ISREG(found.st_mode)) throw Failure("EINVAL", "cannot load " + path_ + ": not a regular file");
  bytes_ = static_cast<uint64_t>(found.st_size);
  // No read-ahead of its own accord: several reads are under way at all times, and other ranks want what lies between.
  posix_fadvise(file_.get(), 0, 0, POSIX_FADV_RANDOM);
  cached_pages_ = CachedPages(file_.get(), bytes_);
  OpenDirect();
}

void SourceFile::OpenDirect() {
  AlignmentStatus status{};
  auto* const buffer = reinterpret_cast<struct statx*>(&status);
  if (statx(file_.get(), "", AT_EMPTY_PATH, kDirectAlignment, buffer) == 0 && (status.mask & kDirectAlignment) != 0) {
    // Zeros say that the file cannot be read so.
    if (!IsPowerOfTwo(status.offset_alignment) || status.offset_alignment > kLargestBlock) return;
    if (!IsPowerOfTwo(status.memory_alignment) || status.memory_alignment > kPage) return;
    block_ = status.offset_alignment;
    memory_alignment_ = status.memory_alignment;
  }
  // By its descriptor: another file may have taken the path.
  const std::string same = "/proc/self/fd/" + std::to_string(file_.get());
  direct_ = UniqueFd(open(same.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  direct_works_ = static_cast<bool>(direct_);
}

void SourceFile::Fail(int error, uint64_t offset) const {
  const std::string place = path_ + " at offset " + std::to_string(offset);
  if (error == 0) throw Failure(code::kFileEnded, "file ended early: " + place);
  throw Failure::System(error, "cannot read " + place);
}

void SourceFile::Read(std::vector<iovec> places, uint64_t offset, uint64_t needed) {
  bool direct = IsDirect();
  size_t first = 0;
  while (needed > 0) {
    const int descriptor = direct ? direct_.get() : file_.get();
    const ssize_t count = preadv(descriptor, places.data() + first, static_cast<int>(places.size() - first),
                                 static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EINVAL && direct) {
      direct_works_ = direct = false;
      continue;
    }
    if (count <= 0) Fail(count == 0 ? 0 : errno, offset);
    const auto read = static_cast<uint64_t>(count);
    // Short of a block is where the file ends, or ended just then: what follows is not aligned any more.
    if (read % block_ != 0) direct = false;
    Advance(places, &first, read);
    offset += read;
    needed -= std::min(needed, read);
  }
}

bool SourceFile::ReadCached(uint8_t* destination, uint64_t offset, uint64_t bytes) {
  while (bytes > 0) {
    iovec place{destination, bytes};
    const ssize_t count = preadv2(file_.get(), &place, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      cache_is_known_ = false;
      return false;
    }
    destination += count;
    offset += static_cast<uint64_t>(count);
    bytes -= static_cast<uint64_t>(count);
  }
  return true;
}

void SourceFile::FetchIntoCache(uint64_t offset, uint64_t bytes) const {
  posix_fadvise(file_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

void SourceFile::DropFromCache(uint64_t offset, uint64_t bytes) const {
  // The kernel drops whole pages only.
  const uint64_t begin = offset / kPage * kPage;
  const uint64_t end = (offset + bytes + kPage - 1) / kPage * kPage;
  posix_fadvise(file_.get(), static_cast<off_t>(begin), static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
}

}  // namespace weightcast
