#include "memory/mapping.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "system/base.h"

namespace weightcast {

int NumaNodes() {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/sys/devices/system/node"), closedir);
  int nodes = 0;
  while (const dirent* entry = directory ? readdir(directory.get()) : nullptr) {
    const bool is_node = std::strncmp(entry->d_name, "node", 4) == 0 && std::isdigit(entry->d_name[4]);
    if (is_node) nodes++;
  }
  return nodes > 1 ? nodes : 1;
}

bool PreferNumaNode(int descriptor, uint64_t bytes, int node) {
  constexpr int kMaxNode = 1024;
  constexpr int kBits = 8 * sizeof(unsigned long);
  if (node < 0 || node >= kMaxNode || ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) return false;
  void* const memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) return false;
  unsigned long mask[kMaxNode / kBits] = {};
  mask[node / kBits] = 1UL << (node % kBits);
  // Of shared memory the kernel keeps the policy with the file, beyond this mapping.
  const bool accepted = syscall(SYS_mbind, memory, bytes, MPOL_PREFERRED, mask, kMaxNode, 0) == 0;
  munmap(memory, bytes);
  return accepted;
}

namespace {

/// A signal ends posix_fallocate with EINTR, and tmpfs then frees what it had reserved in that call: small
/// steps make sure that it gets on.
constexpr uint64_t kReserveStep = uint64_t{256} << 20;

/// Huge pages of x86-64, and of 64-bit ARM with pages of 4 KiB.
constexpr uint64_t kHugePage = uint64_t{2} << 20;

/// Refuses what cannot succeed. tmpfs would fill up all that is left before it fails, which would starve its other
/// users.
void CheckFree(int descriptor, const std::string& path, uint64_t bytes) {
  struct statvfs found{};
  // A tmpfs without a limit shows 0 blocks.
  if (fstatvfs(descriptor, &found) != 0 || found.f_blocks == 0) return;
  if (bytes / found.f_frsize > static_cast<uint64_t>(found.f_bavail)) throw ReserveFailure(ENOSPC, path, bytes);
}

void Reserve(int descriptor, const std::string& path, uint64_t bytes) {
  for (uint64_t offset = 0; offset < bytes;) {
    const uint64_t step = std::min(kReserveStep, bytes - offset);
    const int error = posix_fallocate(descriptor, static_cast<off_t>(offset), static_cast<off_t>(step));
    if (error == EINTR) continue;
    if (error != 0) throw ReserveFailure(error, path, bytes);
    offset += step;
  }
}

/// Maps the file so that address and offset agree in their places within a huge page: only then can the kernel map one
/// with one entry, or make one of small pages. Null when that fails, with errno set.
void* MapAligned(uint64_t bytes, int protection, int descriptor) {
  if (bytes < kHugePage) {
    void* const address = mmap(nullptr, bytes, protection, MAP_SHARED, descriptor, 0);
    return address == MAP_FAILED ? nullptr : address;
  }
  const uint64_t room = bytes + kHugePage;
  void* const reserved = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(reserved);
  const uintptr_t start = (begin + kHugePage - 1) / kHugePage * kHugePage;
  void* const address = mmap(reinterpret_cast<void*>(start), bytes, protection, MAP_SHARED | MAP_FIXED, descriptor, 0);
  const int error = errno;
  if (address == MAP_FAILED) {
    munmap(reserved, room);
    errno = error;
    return nullptr;
  }
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t end = (start + bytes + page - 1) / page * page;
  if (start > begin) munmap(reserved, start - begin);
  if (begin + room > end) munmap(reinterpret_cast<void*>(end), begin + room - end);
  return address;
}

UniqueFd CreateFile(const std::string& path, uint64_t bytes, int numa_node) {
  if (bytes == 0) throw Failure(code::kOutOfRange, "cannot create " + path + " with 0 bytes");
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) throw Failure::System(errno, "cannot create " + path);
  try {
    CheckFree(file.get(), path, bytes);
  } catch (...) {
    unlink(path.c_str());
    throw;
  }
  // Before any page exists: the node is chosen when a page is allocated.
  if (numa_node >= 0 && NumaNodes() > 1) PreferNumaNode(file.get(), bytes, numa_node);
  return file;
}

}  // namespace

void UnlinkFile(const std::string& path, const FileId& file) {
  struct stat named{};
  if (lstat(path.c_str(), &named) != 0 || !(FileId{named.st_dev, named.st_ino} == file)) return;
  if (unlink(path.c_str()) != 0 && errno != ENOENT) throw Failure::System(errno, "cannot unlink " + path);
}

Failure ReserveFailure(int error_number, const std::string& path, uint64_t bytes) {
  struct statvfs found{};
  const std::string free = statvfs(path.c_str(), &found) == 0
                               ? ByteSize(static_cast<uint64_t>(found.f_bavail) * found.f_frsize)
                               : "an unknown amount";
  return Failure::System(error_number,
                         "cannot reserve " + path + " (" + ByteSize(bytes) + " wanted, " + free + " free)");
}

std::shared_ptr<Mapping> Mapping::Create(const std::string& path, uint64_t bytes, int numa_node) {
  const UniqueFd file = CreateFile(path, bytes, numa_node);
  try {
    Reserve(file.get(), path, bytes);
    return std::shared_ptr<Mapping>(new Mapping(path, bytes, file.get(), true));
  } catch (...) {
    unlink(path.c_str());
    throw;
  }
}

std::shared_ptr<Mapping> Mapping::CreateEmpty(const std::string& path, uint64_t bytes, int numa_node) {
  const UniqueFd file = CreateFile(path, bytes, numa_node);
  try {
    if (ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) throw ReserveFailure(errno, path, bytes);
    std::shared_ptr<Mapping> mapping(new Mapping(path, bytes, file.get(), true));
    // For file systems that give huge pages on request.
    madvise(mapping->data(), bytes, MADV_HUGEPAGE);
    return mapping;
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
  return std::shared_ptr<Mapping>(new Mapping(path, static_cast<uint64_t>(found.st_size), descriptor, writable));
}

Mapping::Mapping(std::string path, uint64_t bytes, int descriptor, bool writable)
    : path_(std::move(path)), bytes_(bytes), writable_(writable) {
  struct stat found{};
  if (fstat(descriptor, &found) != 0) throw Failure::System(errno, "cannot examine " + path_);
  file_ = {found.st_dev, found.st_ino};
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  void* const address = MapAligned(bytes_, protection, descriptor);
  if (address == nullptr) throw Failure::System(errno, "cannot map " + path_ + " (" + ByteSize(bytes_) + ")");
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
