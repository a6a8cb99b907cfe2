#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "device/device_memory.h"
#include "device/ledger.h"
#include "memory/mapping.h"
#include "memory/shared_directory.h"

namespace weightcast {

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
