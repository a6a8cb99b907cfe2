#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "device/device_memory.h"
#include "memory/mapping.h"

namespace weightcast {

/// Which process holds how much of a host device: one file, `<directory>/ledger`, mapped by all processes that use the
/// device and guarded by a mutex in it that survives the death of its holder. Every operation first strikes out what
/// dead processes held, and removes their files.
///
/// Safe among threads and processes.
class Ledger {
 public:
  static constexpr size_t kMaxAllocations = 4096;
  /// What an allocation takes is rounded up to this, as drivers do.
  static constexpr uint64_t kGranularity = 512;

  /// Opens the ledger of a directory that the caller holds; the first one makes it. `capacity` in bytes is the
  /// first one's to choose; later ones give the same, or 0 for "what it is".
  Ledger(std::string directory, uint64_t capacity);

  DeviceMemory Measure();
  /// Books `bytes` bytes for this process and returns the allocation's number. The caller makes its file then.
  /// Throws OUT_OF_DEVICE_MEMORY.
  uint64_t Add(uint64_t bytes);
  /// Strikes out an allocation of this process; the caller has removed its file.
  void Remove(uint64_t number);
  /// Counts an allocation of this process as free, while its file stays for MarkUsed.
  void MarkFree(uint64_t number);
  /// Books a kept allocation again. Throws OUT_OF_DEVICE_MEMORY; it is kept on then.
  void MarkUsed(uint64_t number, uint64_t bytes);

  /// The file of an allocation.
  std::string AllocationPath(uint64_t number) const;

 private:
  struct Page;
  class Lock;

  void RemoveDead(Page& page);
  DeviceMemory MeasureLocked() const;
  /// Throws OUT_OF_DEVICE_MEMORY unless so much is free.
  void CheckFree(uint64_t bytes) const;

  const std::string directory_;
  std::shared_ptr<Mapping> mapping_;
  Page* page_ = nullptr;
};

}  // namespace weightcast
