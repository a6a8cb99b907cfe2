#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "system/base.h"

namespace weightcast {

/// How many nodes of memory the host has: 1 where all memory is equally far from everything.
int NumaNodes();

/// Asks that the pages of a file in shared memory, which is made `bytes` long, come from a node as far as it has any.
/// Holds for pages that are not there yet, whichever process first touches them. False if the kernel will not: in a
/// container it often refuses.
bool PreferNumaNode(int descriptor, uint64_t bytes, int node);

/// Which file: the same for every name and every mapping of it.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;

  bool operator==(const FileId& other) const { return device == other.device && inode == other.inode; }
};

/// Removes the name if it leads to this file; does nothing otherwise.
void UnlinkFile(const std::string& path, const FileId& file);

/// The failure to reserve pages; the message says how much was wanted and how much is free.
Failure ReserveFailure(int error_number, const std::string& path, uint64_t bytes);

/// A whole file mapped with MAP_SHARED, at an address where huge pages can be mapped as such. Work that runs on other
/// threads holds the shared pointer until it ends, so memory never goes while it is used. Safe among threads; what
/// happens to bytes that two threads touch at once is the callers' business.
class Mapping {
 public:
  /// Makes a file that must not exist yet (mode 0600), reserves all its pages, so that a full file system is an
  /// error here and never a signal later, and maps it for writing. The pages come from NUMA node `numa_node` as far as
  /// it has any and the kernel allows it; -1 for any node. Leaves no file behind when it fails.
  static std::shared_ptr<Mapping> Create(const std::string& path, uint64_t bytes, int numa_node = -1);
  /// The same without the pages, which a ReserveJob allocates: until it has, touching the memory may end in a signal.
  /// What cannot fit is refused here all the same.
  static std::shared_ptr<Mapping> CreateEmpty(const std::string& path, uint64_t bytes, int numa_node = -1);
  /// Maps an existing regular file of at least one byte. Others may truncate it: see mapped_access.h.
  static std::shared_ptr<Mapping> Open(const std::string& path, bool writable);
  /// Maps an open regular file for reading, as Open() does. `path` is what it is called in failures.
  static std::shared_ptr<Mapping> OfDescriptor(const std::string& path, int descriptor);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  uint8_t* data() const { return data_; }
  bool writable() const { return writable_; }
  FileId file() const { return file_; }
  /// Pages of the file were missing, and there are zeros in their place (mapped_access.h).
  bool has_holes() const { return has_holes_.load(std::memory_order_relaxed); }
  /// May be called in the handler of a signal.
  void MarkHoles() const { has_holes_.store(true, std::memory_order_relaxed); }

  /// Throws OUT_OF_RANGE unless `offset .. offset + bytes` lies in the mapping.
  void CheckRange(uint64_t offset, uint64_t bytes) const;
  /// Throws EACCES if the file is mapped for reading only.
  void CheckWritable() const;

  /// Keeps something that depends on this memory, a registration for instance: it is destroyed before the memory is
  /// unmapped.
  void Keep(std::shared_ptr<void> dependent);

  /// Removes the file's name if it still leads to this file; other names and all mappings stay.
  void Unlink() const { UnlinkFile(path_, file_); }

 private:
  static std::shared_ptr<Mapping> Map(const std::string& path, int descriptor, bool writable);
  Mapping(std::string path, uint64_t bytes, int descriptor, bool writable);

  const std::string path_;
  const uint64_t bytes_;
  const bool writable_;
  uint8_t* data_ = nullptr;
  FileId file_;
  mutable std::atomic<bool> has_holes_{false};
  std::mutex mutex_;
  std::vector<std::shared_ptr<void>> dependents_;
};

}  // namespace weightcast
