#include "memory/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "memory/numa.h"
#include "system/byte_size.h"
#include "system/failure.h"
#include "system/unique_fd.h"

namespace weightcast {
namespace {

/// A signal ends posix_fallocate with EINTR, and tmpfs then gives back what it had reserved in that call: small
/// steps make sure that it gets on.
constexpr uint64_t kReserveStep = uint64_t{256} << 20;

std::string FreeBytes(int descriptor) {
  struct statvfs found{};
  if (fstatvfs(descriptor, &found) != 0) return "an unknown amount";
  return ByteSize(static_cast<uint64_t>(found.f_bavail) * found.f_frsize);
}

void Reserve(int descriptor, const std::string& path, uint64_t bytes) {
  struct statvfs file_system{};
  // Asked first because tmpfs fills up all that is left before it fails, which would starve its other users. A
  // tmpfs without a limit shows 0 blocks.
  const bool hopeless = fstatvfs(descriptor, &file_system) == 0 && file_system.f_blocks > 0 &&
                        bytes / file_system.f_frsize > static_cast<uint64_t>(file_system.f_bavail);
  int error = hopeless ? ENOSPC : 0;
  for (uint64_t offset = 0; offset < bytes && error == 0;) {
    const uint64_t step = std::min(kReserveStep, bytes - offset);
    error = posix_fallocate(descriptor, static_cast<off_t>(offset), static_cast<off_t>(step));
    if (error == EINTR) {
      error = 0;
    } else {
      offset += step;
    }
  }
  if (error != 0) {
    throw Failure::System(error, "cannot reserve " + path + " (" + ByteSize(bytes) + " wanted, " +
                                     FreeBytes(descriptor) + " free)");
  }
}

}  // namespace

void UnlinkFile(const std::string& path, const FileId& file) {
  struct stat named{};
  if (lstat(path.c_str(), &named) != 0 || !(FileId{named.st_dev, named.st_ino} == file)) return;
  if (unlink(path.c_str()) != 0 && errno != ENOENT) throw Failure::System(errno, "cannot unlink " + path);
}

std::shared_ptr<Mapping> Mapping::Create(const std::string& path, uint64_t bytes, int numa_node) {
  if (bytes == 0) throw Failure(code::kOutOfRange, "cannot create " + path + " with 0 bytes");
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) throw Failure::System(errno, "cannot create " + path);
  try {
    // Before the pages are there: where they lie is decided when they come.
    if (numa_node >= 0 && NumaNodes() > 1) PreferNumaNode(file.get(), bytes, numa_node);
    Reserve(file.get(), path, bytes);
    return std::shared_ptr<Mapping>(new Mapping(path, bytes, file.get(), true));
  } catch (...) {
    unlink(path.c_str());
    throw;
  }
}

std::shared_ptr<Mapping> Mapping::Open(const std::string& path, bool writable) {
  // O_NONBLOCK: opening a FIFO must not wait for its other end.
  const UniqueFd file(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK));
  if (!file) throw Failure::System(errno, "cannot open " + path);
  return Map(path, file.get(), writable);
}

std::shared_ptr<Mapping> Mapping::OfDescriptor(const std::string& path, int descriptor) {
  return Map(path, descriptor, false);
}

std::shared_ptr<Mapping> Mapping::Map(const std::string& path, int descriptor, bool writable) {
  struct stat found{};
  if (fstat(descriptor, &found) != 0) throw Failure::System(errno, "cannot examine " + path);
  if (!S_ISREG(found.st_mode)) throw Failure("EINVAL", "cannot map " + path + ": not a regular file");
  if (found.st_size == 0) throw Failure("EINVAL", "cannot map " + path + ": the file is empty");
  return std::shared_ptr<Mapping>(
      new Mapping(path, static_cast<uint64_t>(found.st_size), descriptor, writable));
}

Mapping::Mapping(std::string path, uint64_t bytes, int descriptor, bool writable)
    : path_(std::move(path)), bytes_(bytes), writable_(writable) {
  struct stat found{};
  if (fstat(descriptor, &found) != 0) throw Failure::System(errno, "cannot examine " + path_);
  file_ = {found.st_dev, found.st_ino};
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  void* address = mmap(nullptr, bytes_, protection, MAP_SHARED, descriptor, 0);
  if (address == MAP_FAILED) throw Failure::System(errno, "cannot map " + path_ + " (" + ByteSize(bytes_) + ")");
  data_ = static_cast<uint8_t*>(address);
}

Mapping::~Mapping() {
  dependents_.clear();
  munmap(data_, bytes_);
}

void Mapping::Keep(std::shared_ptr<void> dependent) {
  const std::lock_guard<std::mutex> lock(mutex_);
  dependents_.push_back(std::move(dependent));
}

void Mapping::CheckRange(uint64_t offset, uint64_t bytes) const {
  if (offset <= bytes_ && bytes <= bytes_ - offset) return;
  throw Failure(code::kOutOfRange, "offset " + std::to_string(offset) + " with " + std::to_string(bytes) +
                                       " bytes lies outside " + path_ + " of " + std::to_string(bytes_) + " bytes");
}

void Mapping::CheckWritable() const {
  if (!writable_) throw Failure("EACCES", path_ + " is mapped for reading only");
}

}  // namespace weightcast
