#include "device/host_device.h"

#include <exception>
#include <utility>

#include "system/failure.h"

namespace weightcast {

DeviceAllocation::DeviceAllocation(std::shared_ptr<HostDevice> device, uint64_t number,
                                   std::shared_ptr<Mapping> mapping)
    : device_(std::move(device)), number_(number), mapping_(std::move(mapping)) {}

DeviceAllocation::~DeviceAllocation() {
  try {
    Free();
  } catch (const std::exception&) {
    // The ledger stays locked by another process; the entry goes when this process ends.
  }
}

void DeviceAllocation::Free() {
  if (mapping_) device_->GiveBack(*this);
}

namespace {

/// What processes left behind that were all killed is no device: its capacity must not bind the next one.
const std::string& WithoutRemains(const std::string& directory) {
  SharedDirectory::RemoveIfAbandoned(directory);
  return directory;
}

}  // namespace

HostDevice::HostDevice(const std::string& directory, uint64_t capacity)
    : directory_(WithoutRemains(directory)), ledger_(std::make_unique<Ledger>(directory, capacity)) {}

HostDevice::~HostDevice() { Close(); }

DeviceMemory HostDevice::Measure() {
  CheckOpen();
  return ledger_->Measure();
}

std::shared_ptr<DeviceAllocation> HostDevice::Allocate(uint64_t bytes) {
  CheckOpen();
  if (bytes == 0) throw Failure(code::kOutOfRange, "an allocation needs at least one byte");
  const uint64_t number = ledger_->Book(bytes);
  try {
    // Outside the ledger's lock: reserving gigabytes takes a while.
    std::shared_ptr<Mapping> mapping = Mapping::Create(ledger_->AllocationPath(number), bytes);
    std::shared_ptr<DeviceAllocation> allocation(
        new DeviceAllocation(shared_from_this(), number, std::move(mapping)));
    allocations_[number] = allocation.get();
    return allocation;
  } catch (...) {
    ledger_->Strike(number);
    throw;
  }
}

void HostDevice::GiveBack(DeviceAllocation& allocation) {
  const std::shared_ptr<Mapping> mapping = std::move(allocation.mapping_);
  allocation.mapping_ = nullptr;
  allocations_.erase(allocation.number_);
  mapping->Unlink();
  ledger_->Strike(allocation.number_);
}

void HostDevice::Close() noexcept {
  if (!ledger_) return;
  while (!allocations_.empty()) {
    try {
      GiveBack(*allocations_.begin()->second);
    } catch (const std::exception&) {
      // The ledger stays locked by another process; the entry goes when this process ends.
    }
  }
  ledger_.reset();
  directory_.Leave();
}

void HostDevice::CheckOpen() const {
  if (!ledger_) throw Failure(code::kClosed, "device " + directory_.path() + " is closed");
}

}  // namespace weightcast
