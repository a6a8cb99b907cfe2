#include "fabric/read.h"

#include <algorithm>
#include <string>
#include <utility>

#include "memory/thread_pool.h"
#include "system/base.h"
#include "system/faults.h"

namespace weightcast {
namespace {

std::vector<ReadRange> Joined(const std::vector<ReadRange>& ranges) {
  std::vector<ReadRange> joined;
  for (const ReadRange& range : ranges) {
    if (range.bytes == 0) continue;
    ReadRange* const last = joined.empty() ? nullptr : &joined.back();
    if (last != nullptr && last->source_offset + last->bytes == range.source_offset &&
        last->destination_offset + last->bytes == range.destination_offset) {
      last->bytes += range.bytes;
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

std::vector<ReadRange> Checked(const std::vector<ReadRange>& ranges, const Mapping& destination) {
  destination.CheckWritable();
  for (const ReadRange& range : ranges) destination.CheckRange(range.destination_offset, range.bytes);
  return Joined(ranges);
}

}  // namespace

Read::Read(std::vector<ReadRange> ranges, std::shared_ptr<Mapping> destination, double* progress, Done done)
    : destination_(std::move(destination)),
      progress_(progress),
      ranges_(Checked(ranges, *destination_)),
      done_(std::move(done)) {
  for (const ReadRange& range : ranges_) bytes_ += range.bytes;
}

void Read::CheckSource(uint64_t bytes, const std::string& source) const {
  for (const ReadRange& range : ranges_) {
    if (range.source_offset <= bytes && range.bytes <= bytes - range.source_offset) continue;
    throw Failure(code::kOutOfRange, "offset " + std::to_string(range.source_offset) + " with " +
                                         std::to_string(range.bytes) + " bytes lies outside a segment of " +
                                         std::to_string(bytes) + " bytes of " + source);
  }
}

void Read::Begin() {
  std::unique_lock<std::mutex> lock(mutex_);
  outcome_.interval.started_at = MonotonicMilliseconds();
  begun_ = true;
  FinishIfComplete(std::move(lock));
}

std::optional<ReadRange> Read::Take(uint64_t most) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (outcome_.failure || next_range_ == ranges_.size()) return std::nullopt;
  const ReadRange& range = ranges_[next_range_];
  const uint64_t bytes = std::min(most, range.bytes - next_offset_);
  const ReadRange piece{range.source_offset + next_offset_, range.destination_offset + next_offset_, bytes};
  next_offset_ += bytes;
  if (next_offset_ == range.bytes) {
    next_range_++;
    next_offset_ = 0;
  }
  taken_++;
  return piece;
}

void Read::Complete(const ReadRange& piece) {
  if (const std::optional<Failure> failure = faults::Strike(faults::Point::kRead)) {
    Fail(*failure);
    return Release();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  completed_ += piece.bytes;
  if (progress_ != nullptr) AddTo(progress_, piece.bytes);
  taken_--;
  FinishIfComplete(std::move(lock));
}

void Read::Release() {
  std::unique_lock<std::mutex> lock(mutex_);
  taken_--;
  FinishIfComplete(std::move(lock));
}

void Read::Fail(const Failure& failure) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!outcome_.failure) outcome_.failure = failure;
  FinishIfComplete(std::move(lock));
}

bool Read::has_failed() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return outcome_.failure.has_value();
}

std::string Read::ProgressText() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ByteSize(completed_) + " of " + ByteSize(bytes_) + " had arrived";
}

void Read::FinishIfComplete(std::unique_lock<std::mutex> lock) {
  const bool is_complete = begun_ && completed_ == bytes_;
  if (!done_ || taken_ > 0 || !(is_complete || outcome_.failure)) return;
  outcome_.interval.ended_at = MonotonicMilliseconds();
  const Done done = std::exchange(done_, Done());
  const Outcome outcome = outcome_;
  lock.unlock();
  done(outcome);
}

}  // namespace weightcast
