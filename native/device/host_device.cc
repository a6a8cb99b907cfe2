#include "device/host_device.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "memory/segment_jobs.h"
#include "system/base.h"

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
  if (mapping_) device_->Release(*this);
}

namespace {

/// Below this a new file costs less than looking for an old one is worth.
constexpr uint64_t kLeastKept = uint64_t{1} << 20;
/// The slots of one update: a staging slot and a link buffer, twice.
constexpr size_t kMostKept = 4;

/// In huge pages where the kernel can make them: an engine worker maps the slots again for every update, which costs it
/// a fault for each 64 KiB otherwise.
std::shared_ptr<Mapping> MakeMemory(const std::string& path, uint64_t bytes) {
  std::shared_ptr<Mapping> memory = Mapping::CreateEmpty(path, bytes);
  try {
    ReserveJob reserve(memory, 0, bytes, nullptr);
    for (size_t piece = 0; piece < reserve.pieces(); piece++) reserve.Run(piece);
  } catch (...) {
    memory->Unlink();
    throw;
  }
  return memory;
}

/// What processes left behind that were all killed is no device: its capacity must not bind the next one.
const std::string& WithoutAbandoned(const std::string& directory) {
  SharedDirectory::RemoveIfAbandoned(directory);
  return directory;
}

}  // namespace

HostDevice::HostDevice(const std::string& directory, uint64_t capacity)
    : directory_(WithoutAbandoned(directory)), ledger_(std::make_unique<Ledger>(directory, capacity)) {}

HostDevice::~HostDevice() { Close(); }

DeviceMemory HostDevice::Measure() {
  CheckOpen();
  return ledger_->Measure();
}

std::shared_ptr<DeviceAllocation> HostDevice::Allocate(uint64_t bytes) {
  CheckOpen();
  if (bytes == 0) throw Failure(code::kOutOfRange, "an allocation needs at least one byte");
  std::optional<Block> block = TakeKept(bytes);
  if (!block) block = MakeBlock(bytes);
  std::shared_ptr<DeviceAllocation> allocation(
      new DeviceAllocation(shared_from_this(), block->number, std::move(block->mapping)));
  allocations_[block->number] = allocation.get();
  return allocation;
}

std::optional<HostDevice::Block> HostDevice::TakeKept(uint64_t bytes) {
  // A block whose memory a copy still uses must not come back as someone else's.
  const auto found = std::find_if(kept_.begin(), kept_.end(), [bytes](const Block& block) {
    return block.mapping->bytes() == bytes && block.mapping.use_count() == 1;
  });
  if (found == kept_.end()) return std::nullopt;
  ledger_->MarkUsed(found->number, bytes);
  Block block = std::move(*found);
  kept_.erase(found);
  return block;
}

HostDevice::Block HostDevice::MakeBlock(uint64_t bytes) {
  const uint64_t number = ledger_->Add(bytes);
  // Outside the ledger's lock: reserving gigabytes takes a while.
  const std::string path = ledger_->AllocationPath(number);
  try {
    try {
      return {number, MakeMemory(path, bytes)};
    } catch (const Failure&) {
      // The machine may be short of the memory that kept blocks still take.
      if (kept_.empty()) throw;
      RemoveKept();
      return {number, MakeMemory(path, bytes)};
    }
  } catch (...) {
    ledger_->Remove(number);
    throw;
  }
}

void HostDevice::Release(DeviceAllocation& allocation) {
  Block block{allocation.number_, std::move(allocation.mapping_)};
  allocation.mapping_ = nullptr;
  allocations_.erase(block.number);
  if (block.mapping->bytes() < kLeastKept) {
    Remove(block);
    return;
  }
  ledger_->MarkFree(block.number);
  kept_.push_back(std::move(block));
  if (kept_.size() <= kMostKept) return;
  Remove(kept_.front());
  kept_.pop_front();
}

void HostDevice::Remove(const Block& block) {
  block.mapping->Unlink();
  ledger_->Remove(block.number);
}

void HostDevice::RemoveKept() {
  for (const Block& block : kept_) Remove(block);
  kept_.clear();
}

void HostDevice::Close() noexcept {
  if (!ledger_) return;
  // Where another process keeps the ledger locked, the entries go when this process ends.
  const auto attempt = [](auto action) {
    try {
      action();
    } catch (const std::exception&) {
    }
  };
  while (!allocations_.empty()) attempt([&] { Release(*allocations_.begin()->second); });
  attempt([&] { RemoveKept(); });
  ledger_.reset();
  directory_.Leave();
}

void HostDevice::CheckOpen() const {
  if (!ledger_) throw Failure(code::kClosed, "device " + directory_.path() + " is closed");
}

}  // namespace weightcast
