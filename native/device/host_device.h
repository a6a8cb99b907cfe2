#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "device/device_memory.h"
#include "memory/mapping.h"
#include "memory/shared_directory.h"

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

class HostDevice;

/// Memory of a host device that this process allocated; goes back to the device when it is freed or destroyed.
/// Used from one thread at a time, the same as its device.
class DeviceAllocation {
 public:
  ~DeviceAllocation();
  DeviceAllocation(const DeviceAllocation&) = delete;
  DeviceAllocation& operator=(const DeviceAllocation&) = delete;

  /// Null once freed. Other holders may go on using the memory; only the device's ledger counts it as free.
  const std::shared_ptr<Mapping>& mapping() const { return mapping_; }
  /// May be called twice.
  void Free();

 private:
  friend class HostDevice;
  DeviceAllocation(std::shared_ptr<HostDevice> device, uint64_t number, std::shared_ptr<Mapping> mapping);

  const std::shared_ptr<HostDevice> device_;
  const uint64_t number_;
  std::shared_ptr<Mapping> mapping_;
};

/// A GPU emulated in named shared memory: a shared directory with a ledger, and a file for each allocation. What a
/// process held when it died is freed when another one next looks; the last process to leave removes all.
///
/// Files of the large allocations freed last are kept for the next of their size, as a driver keeps pages: zeroing
/// hundreds of megabytes for the slots of every update would take longer than the update.
///
/// Used from one thread at a time.
class HostDevice : public std::enable_shared_from_this<HostDevice> {
 public:
  /// `capacity` as for Ledger.
  HostDevice(const std::string& directory, uint64_t capacity);
  ~HostDevice();
  HostDevice(const HostDevice&) = delete;
  HostDevice& operator=(const HostDevice&) = delete;

  const std::string& directory() const { return directory_.path(); }

  DeviceMemory Measure();
  /// Throws OUT_OF_DEVICE_MEMORY; ENOSPC if the machine has less shared memory than the device pretends.
  std::shared_ptr<DeviceAllocation> Allocate(uint64_t bytes);
  /// Frees all allocations made through this object and leaves. May be called twice.
  void Close() noexcept;

 private:
  friend class DeviceAllocation;
  struct Block {
    uint64_t number;
    std::shared_ptr<Mapping> mapping;
  };

  /// A kept block of this size, booked again; nothing if there is none that is out of use.
  std::optional<Block> TakeKept(uint64_t bytes);
  Block MakeBlock(uint64_t bytes);
  void Release(DeviceAllocation& allocation);
  void Remove(const Block& block);
  void RemoveKept();
  void CheckOpen() const;

  SharedDirectory directory_;
  /// Null once closed.
  std::unique_ptr<Ledger> ledger_;
  std::map<uint64_t, DeviceAllocation*> allocations_;
  /// Freed last at the back.
  std::deque<Block> kept_;
};

}  // namespace weightcast
