#include "collective/broadcast_copy.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "memory/copy.h"
#include "system/base.h"
#include "system/threads.h"

namespace weightcast {

std::shared_ptr<Mapping> MappingCache::Open(const std::string& path, const FileId& file) {
  const auto found = std::find_if(mappings_.begin(), mappings_.end(),
                                  [&file](const auto& mapping) { return mapping->file() == file; });
  if (found != mappings_.end()) {
    mappings_.splice(mappings_.begin(), mappings_, found);
    return mappings_.front();
  }
  std::shared_ptr<Mapping> mapping = Mapping::Open(path, false);
  if (!(mapping->file() == file)) throw Failure("ESTALE", path + " is no longer the file that its root announced");
  mappings_.push_front(mapping);
  if (mappings_.size() > kCapacity) mappings_.pop_back();
  return mapping;
}

namespace {

/// How much is copied before it is checked whether the collective has ended.
constexpr uint64_t kCopyStep = uint64_t{4} << 20;

void CheckPath(const std::string& path) {
  if (!path.empty() && path.front() == '/' && path.size() < Announcement::kNameBytes) return;
  throw Failure("EINVAL", "the source's path must be absolute and shorter than " +
                              std::to_string(Announcement::kNameBytes) + " bytes: " + path);
}

}  // namespace

HostCopy::HostCopy(Locations locations, std::shared_ptr<MappingCache> sources)
    : locations_(std::move(locations)), sources_(std::move(sources)) {
  locations_.destination->CheckRange(locations_.destination_offset, locations_.bytes);
  locations_.destination->CheckWritable();
  if (!locations_.source) return;
  locations_.source->CheckRange(locations_.source_offset, locations_.bytes);
  CheckPath(locations_.source->path());
}

void HostCopy::Announce(Announcement& announcement) const {
  announcement.identity[0] = locations_.source->file().device;
  announcement.identity[1] = locations_.source->file().inode;
  announcement.offset = locations_.source_offset;
  const std::string& path = locations_.source->path();
  std::memcpy(announcement.name, path.c_str(), path.size() + 1);
}

void HostCopy::CopyOwn(const Check& check) { Copy(*locations_.source, locations_.source_offset, check); }

void HostCopy::CopyAnnounced(const Announcement& announcement, const Check& check) {
  const FileId file{static_cast<dev_t>(announcement.identity[0]), static_cast<ino_t>(announcement.identity[1])};
  const std::shared_ptr<Mapping> source = sources_->Open(announcement.name, file);
  source->CheckRange(announcement.offset, locations_.bytes);
  Copy(*source, announcement.offset, check);
}

void HostCopy::Copy(const Mapping& source, uint64_t source_offset, const Check& check) {
  const Mapping& destination = *locations_.destination;
  if (source.file() == destination.file()) {
    const uint64_t low = std::min(source_offset, locations_.destination_offset);
    const uint64_t high = std::max(source_offset, locations_.destination_offset);
    if (low == high) return;
    if (high - low < locations_.bytes) {
      throw Failure("EINVAL", "source and destination of a broadcast overlap in " + source.path());
    }
  }
  for (uint64_t copied = 0; copied < locations_.bytes; copied += kCopyStep) {
    check();
    StreamCopy(destination.data() + locations_.destination_offset + copied, source.data() + source_offset + copied,
               std::min(kCopyStep, locations_.bytes - copied));
  }
}

namespace {

constexpr double kMostSleepMilliseconds = 0.2;
/// A copy that takes longer never ends: the slowest way between two devices moves some GB/s.
constexpr double kStallMilliseconds = 30'000;
constexpr char kBroken[] = "a copy between devices failed";

}  // namespace

DeviceCopier::DeviceCopier(std::shared_ptr<const cuda::PrimaryContext> context)
    : context_(std::move(context)), stream_(context_), ended_(context_, cuda::kEventDisableTiming) {}

std::shared_ptr<const cuda::DeviceBlock> DeviceCopier::Open(const uint64_t (&identity)[2],
                                                            const cuda::IpcMemoryHandle& handle) {
  std::shared_ptr<const cuda::DeviceBlock>& block = opened_[{identity[0], identity[1]}];
  if (!block) block = cuda::DeviceBlock::Open(context_, handle);
  return block;
}

void DeviceCopier::Close(const Announcement& announcement) {
  const uint64_t process = announcement.identity[0];
  opened_.erase(opened_.lower_bound({process, 0}), opened_.upper_bound({process, UINT64_MAX}));
}

void DeviceCopier::Copy(cuda::DevicePointer destination, cuda::DevicePointer source, uint64_t bytes) {
  if (bytes == 0) return;
  const cuda::Driver& driver = context_->driver();
  const cuda::CurrentContext current(driver, context_->context());
  driver.Check(driver.cuMemcpyDtoDAsync(destination, source, bytes, stream_.get()), kBroken);
  driver.Check(driver.cuEventRecord(ended_.get(), stream_.get()), kBroken);
  const double stalled_at = MonotonicMilliseconds() + kStallMilliseconds;
  Backoff backoff(kMostSleepMilliseconds);
  for (;;) {
    const cuda::Result result = driver.cuEventQuery(ended_.get());
    if (result != cuda::kErrorNotReady) return driver.Check(result, kBroken);
    if (MonotonicMilliseconds() >= stalled_at) {
      throw Failure(code::kDeviceLost, "a copy to device " + context_->uuid() + " does not end");
    }
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(backoff.Next()));
  }
}

DeviceCopy::DeviceCopy(Locations locations, std::shared_ptr<DeviceCopier> copier)
    : locations_(std::move(locations)), copier_(std::move(copier)) {
  const auto& [source, destination, bytes] = locations_;
  destination.block->CheckRange(destination.offset, bytes);
  if (!source.block) return;
  source.block->CheckRange(source.offset, bytes);
  const uint64_t distance = std::max(source.offset, destination.offset) - std::min(source.offset, destination.offset);
  if (source.block == destination.block && distance > 0 && distance < bytes) {
    throw Failure("EINVAL",
                  "source and destination of a broadcast overlap on device " + source.block->context().uuid());
  }
}

void DeviceCopy::Announce(Announcement& announcement) const {
  static_assert(sizeof(cuda::IpcMemoryHandle) <= Announcement::kNameBytes);
  const cuda::DeviceBlock& block = *locations_.source.block;
  announcement.identity[0] = static_cast<uint64_t>(getpid());
  announcement.identity[1] = block.number();
  announcement.offset = locations_.source.offset;
  const cuda::IpcMemoryHandle handle = block.Handle();
  std::memcpy(announcement.name, handle.bytes, sizeof(handle.bytes));
}

void DeviceCopy::CopyOwn(const Check& check) {
  check();
  const cuda::DevicePointer source = locations_.source.block->pointer() + locations_.source.offset;
  const cuda::DevicePointer destination = locations_.destination.block->pointer() + locations_.destination.offset;
  if (source != destination) copier_->Copy(destination, source, locations_.bytes);
}

void DeviceCopy::CopyAnnounced(const Announcement& announcement, const Check& check) {
  cuda::IpcMemoryHandle handle{};
  std::memcpy(handle.bytes, announcement.name, sizeof(handle.bytes));
  const std::shared_ptr<const cuda::DeviceBlock> source = copier_->Open(announcement.identity, handle);
  source->CheckRange(announcement.offset, locations_.bytes);
  check();
  copier_->Copy(locations_.destination.block->pointer() + locations_.destination.offset,
                source->pointer() + announcement.offset, locations_.bytes);
}

}  // namespace weightcast
