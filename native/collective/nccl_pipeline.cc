#include "collective/nccl_pipeline.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

#include "system/backoff.h"

namespace weightcast {
namespace {

constexpr char kBroken[] = "a broadcast failed on the device";
constexpr double kMostSleepMilliseconds = 2;

cuda::DevicePointer PointerTo(const cuda::DevicePlace& place) {
  return place.block ? place.block->pointer() + place.offset : 0;
}

}  // namespace

NcclPipeline::NcclPipeline(std::shared_ptr<const cuda::PrimaryContext> context)
    : context_(std::move(context)), driver_(context_->driver()), stream_(context_), clock_(driver_) {}

double NcclPipeline::Deadline() const {
  double earliest = std::numeric_limits<double>::infinity();
  for (const UnderWay& each : under_way_) earliest = std::min(earliest, each.broadcast.deadline);
  return earliest;
}

void NcclPipeline::Issue(NcclCommunicator& communicator, NcclBroadcast broadcast,
                         const NcclCommunicator::Pause& pause) {
  const bool found_idle = IsEmpty();
  under_way_.push_back({std::move(broadcast), TakeEvent(), TakeEvent(), found_idle, MonotonicMilliseconds()});
  // Pauses may take broadcasts out at the front, but not this one: references into a deque stay valid.
  UnderWay& own = under_way_.back();
  driver_.Check(driver_.cuEventRecord(own.started.get(), stream_.get()), kBroken);
  const NcclBroadcast& given = own.broadcast;
  communicator.Broadcast({PointerTo(given.source), PointerTo(given.destination), given.bytes, given.root},
                         stream_.get(), pause);
  driver_.Check(driver_.cuEventRecord(own.ended.get(), stream_.get()), kBroken);
  own.is_issued = true;
}

std::vector<NcclPipeline::Ended> NcclPipeline::TakeEnded() {
  std::vector<Ended> all;
  while (!under_way_.empty() && under_way_.front().is_issued) {
    const cuda::Result result = driver_.cuEventQuery(under_way_.front().ended.get());
    if (result == cuda::kErrorNotReady) break;
    driver_.Check(result, kBroken);
    all.push_back(TakeFront());
  }
  return all;
}

NcclPipeline::Ended NcclPipeline::TakeFront() {
  UnderWay first = std::move(under_way_.front());
  under_way_.pop_front();
  Ended ended{std::move(first.broadcast.done), {}};
  std::optional<cuda::OwnedEvent> spare =
      clock_.Locate({first.started, std::move(first.ended), first.found_idle, first.enqueued_at,
                     MonotonicMilliseconds()},
                    &ended.interval);
  if (spare) spare_events_.push_back(std::move(*spare));
  spare_events_.push_back(std::move(first.started));
  return ended;
}

bool NcclPipeline::Drain(double milliseconds) {
  const double deadline = MonotonicMilliseconds() + milliseconds;
  Backoff backoff(kMostSleepMilliseconds);
  while (driver_.cuStreamQuery(stream_.get()) == cuda::kErrorNotReady) {
    if (MonotonicMilliseconds() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(backoff.Next()));
  }
  // Also when the query failed: no kernel runs in a context that is lost.
  return true;
}

std::vector<Done> NcclPipeline::Abandon() {
  std::vector<Done> all;
  for (UnderWay& each : under_way_) all.push_back(std::move(each.broadcast.done));
  return all;
}

cuda::OwnedEvent NcclPipeline::TakeEvent() {
  if (spare_events_.empty()) return cuda::OwnedEvent(context_, 0);
  cuda::OwnedEvent event = std::move(spare_events_.back());
  spare_events_.pop_back();
  return event;
}

}  // namespace weightcast
