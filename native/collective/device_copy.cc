#include "collective/device_copy.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "system/backoff.h"

namespace weightcast {
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

DeviceCopy::DeviceCopy(Places places, std::shared_ptr<DeviceCopier> copier)
    : places_(std::move(places)), copier_(std::move(copier)) {
  const auto& [source, destination, bytes] = places_;
  destination.block->CheckRange(destination.offset, bytes);
  if (!source.block) return;
  source.block->CheckRange(source.offset, bytes);
  const uint64_t distance = std::max(source.offset, destination.offset) - std::min(source.offset, destination.offset);
  if (source.block == destination.block && distance > 0 && distance < bytes) {
    throw Failure("EINVAL", "source and destination of a broadcast overlap on device " + source.block->context().uuid());
  }
}

void DeviceCopy::Announce(Announcement& announcement) const {
  static_assert(sizeof(cuda::IpcMemoryHandle) <= Announcement::kNameBytes);
  const cuda::DeviceBlock& block = *places_.source.block;
  announcement.identity[0] = static_cast<uint64_t>(getpid());
  announcement.identity[1] = block.number();
  announcement.offset = places_.source.offset;
  const cuda::IpcMemoryHandle handle = block.Handle();
  std::memcpy(announcement.name, handle.bytes, sizeof(handle.bytes));
}

void DeviceCopy::CopyOwn(const Check& check) {
  check();
  const cuda::DevicePointer source = places_.source.block->pointer() + places_.source.offset;
  const cuda::DevicePointer destination = places_.destination.block->pointer() + places_.destination.offset;
  if (source != destination) copier_->Copy(destination, source, places_.bytes);
}

void DeviceCopy::CopyAnnounced(const Announcement& announcement, const Check& check) {
  cuda::IpcMemoryHandle handle{};
  std::memcpy(handle.bytes, announcement.name, sizeof(handle.bytes));
  const std::shared_ptr<const cuda::DeviceBlock> source = copier_->Open(announcement.identity, handle);
  source->CheckRange(announcement.offset, places_.bytes);
  check();
  copier_->Copy(places_.destination.block->pointer() + places_.destination.offset,
                source->pointer() + announcement.offset, places_.bytes);
}

}  // namespace weightcast
