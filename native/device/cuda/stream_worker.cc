#include "device/cuda/stream_worker.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "system/threads.h"

namespace weightcast::cuda {

std::optional<OwnedEvent> GpuClock::Locate(Work work, Interval* interval) {
  double started_at = work.enqueued_at;
  if (last_end_ && !work.found_idle) {
    started_at = std::max(started_at, last_ended_at_ + Elapsed(*last_end_, work.start));
  }
  interval->ended_at = std::min(started_at + Elapsed(work.start, work.end), work.seen_at);
  interval->started_at = std::min(started_at, interval->ended_at);
  last_ended_at_ = interval->ended_at;
  std::optional<OwnedEvent> before = std::move(last_end_);
  last_end_ = std::move(work.end);
  return before;
}

double GpuClock::Elapsed(const OwnedEvent& from, const OwnedEvent& to) const {
  float milliseconds = 0;
  driver_.Check(driver_.cuEventElapsedTime(&milliseconds, from.get(), to.get()),
                "cannot ask how long the device worked");
  return milliseconds;
}

namespace {

constexpr size_t kMaxSubmitted = 4096;
constexpr std::chrono::milliseconds kStopLimit{10'000};
/// How often a waiting thread looks for errors: after one that stays with the context the driver makes no more
/// callbacks.
constexpr std::chrono::milliseconds kLook{100};
/// A thousandth of what a link does; copies out of memory that is not page-locked are slow.
constexpr double kBytesAMillisecond = 1 << 20;

using Lock = std::unique_lock<std::mutex>;

/// How the loop is woken. The driver's callback holds it, and nothing that needs the driver when it goes.
struct Signal {
  std::mutex mutex;
  std::condition_variable changed;
  bool has_news = false;

  static void Ring(void* data) {
    const std::unique_ptr<std::shared_ptr<Signal>> owned(static_cast<std::shared_ptr<Signal>*>(data));
    Signal& signal = **owned;
    const std::lock_guard<std::mutex> lock(signal.mutex);
    signal.has_news = true;
    signal.changed.notify_all();
  }
};

}  // namespace

/// What the thread works on; outlives the worker where a hanging driver does not let the thread end.
class StreamWorker::Loop : public std::enable_shared_from_this<StreamWorker::Loop> {
 public:
  Loop(std::shared_ptr<const PrimaryContext> context, size_t depth, double stall_milliseconds)
      : context_(std::move(context)),
        driver_(context_->driver()),
        depth_(depth),
        stall_milliseconds_(stall_milliseconds),
        signal_(std::make_shared<Signal>()),
        clock_(driver_),
        stream_(context_),
        callbacks_(context_) {}

  void Submit(Operation operation);
  void Close();
  /// False if the thread is still in there at the end of the limit.
  bool WaitForEnd();
  void Run() noexcept;

 private:
  struct Entry {
    Operation operation;
    std::optional<OwnedEvent> started;
    std::optional<OwnedEvent> ended;
    bool found_idle = false;
    double enqueued_at = 0;
    std::optional<Failure> failure;
  };

  /// False once the worker is closed and nothing is enqueued any more.
  bool WaitForNews();
  std::optional<Operation> Take();
  void Enqueue(Operation operation);
  /// Reports what has ended, in order.
  void Settle();
  void SettleFront();
  void CheckProgress() const;
  void RefuseRest();
  void End(const Failure& failure);
  OwnedEvent TakeEvent();

  const std::shared_ptr<const PrimaryContext> context_;
  const Driver& driver_;
  const size_t depth_;
  const double stall_milliseconds_;
  const std::shared_ptr<Signal> signal_;

  /// Under the signal's mutex.
  std::deque<Operation> submitted_;
  bool closed_ = false;
  bool ended_ = false;
  std::optional<Failure> lost_;

  /// The thread's own.
  GpuClock clock_;
  OwnedStream stream_;
  OwnedStream callbacks_;
  std::deque<Entry> enqueued_;
  std::vector<OwnedEvent> spare_events_;
  double last_progress_at_ = 0;
};

StreamWorker::StreamWorker(std::shared_ptr<const PrimaryContext> context, const char* thread_name, size_t depth,
                           double stall_milliseconds)
    : loop_(std::make_shared<Loop>(std::move(context), depth, stall_milliseconds)) {
  thread_ = StartThread(thread_name, [loop = loop_] { loop->Run(); });
}

StreamWorker::~StreamWorker() { Stop(); }

void StreamWorker::Submit(Operation operation) { loop_->Submit(std::move(operation)); }

void StreamWorker::Stop() noexcept {
  if (!thread_.joinable()) return;
  loop_->Close();
  if (loop_->WaitForEnd()) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

void StreamWorker::Loop::Submit(Operation operation) {
  const Lock lock(signal_->mutex);
  if (closed_) throw Failure(code::kClosed, "device " + context_->uuid() + " is closed");
  if (lost_) throw *lost_;
  if (submitted_.size() >= kMaxSubmitted) {
    throw Failure(code::kOverloaded, "device " + context_->uuid() + " already has " + std::to_string(kMaxSubmitted) +
                                         " operations waiting");
  }
  submitted_.push_back(std::move(operation));
  signal_->changed.notify_all();
}

void StreamWorker::Loop::Close() {
  const Lock lock(signal_->mutex);
  closed_ = true;
  signal_->changed.notify_all();
}

bool StreamWorker::Loop::WaitForEnd() {
  Lock lock(signal_->mutex);
  return signal_->changed.wait_for(lock, kStopLimit, [this] { return ended_; });
}

void StreamWorker::Loop::Run() noexcept {
  try {
    const CurrentContext current(driver_, context_->context());
    while (WaitForNews()) {
      while (std::optional<Operation> operation = Take()) Enqueue(std::move(*operation));
      Settle();
      CheckProgress();
    }
  } catch (const Failure& failure) {
    End(failure);
  } catch (const std::exception& thrown) {
    End(Failure(code::kDeviceLost, "device " + context_->uuid() + ": " + thrown.what()));
  }
  RefuseRest();
  const Lock lock(signal_->mutex);
  ended_ = true;
  signal_->changed.notify_all();
}

bool StreamWorker::Loop::WaitForNews() {
  Lock lock(signal_->mutex);
  const auto has_news = [this] {
    if (closed_) return signal_->has_news || enqueued_.empty();
    return signal_->has_news || (!submitted_.empty() && enqueued_.size() < depth_);
  };
  // Without work there is nothing that could go wrong, and no end to the wait.
  if (enqueued_.empty()) {
    signal_->changed.wait(lock, has_news);
  } else {
    signal_->changed.wait_for(lock, kLook, has_news);
  }
  signal_->has_news = false;
  return !(closed_ && enqueued_.empty());
}

std::optional<Operation> StreamWorker::Loop::Take() {
  const Lock lock(signal_->mutex);
  if (closed_ || submitted_.empty() || enqueued_.size() >= depth_) return std::nullopt;
  Operation operation = std::move(submitted_.front());
  submitted_.pop_front();
  return operation;
}

void StreamWorker::Loop::Enqueue(Operation operation) {
  const bool found_idle = enqueued_.empty();
  enqueued_.emplace_back();
  // From here on the entry is answered, whatever throws.
  Entry& entry = enqueued_.back();
  entry.operation = std::move(operation);
  entry.started = TakeEvent();
  entry.ended = TakeEvent();
  entry.found_idle = found_idle;
  entry.enqueued_at = MonotonicMilliseconds();
  if (found_idle) last_progress_at_ = entry.enqueued_at;
  const std::string attempt = "cannot " + entry.operation.what;
  driver_.Check(driver_.cuEventRecord(entry.started->get(), stream_.get()), attempt);
  try {
    entry.operation.enqueue(stream_.get());
  } catch (...) {
    entry.failure = CurrentFailure();
    if (entry.failure->code() == code::kDeviceLost) throw;
  }
  driver_.Check(driver_.cuEventRecord(entry.ended->get(), stream_.get()), attempt);
  driver_.Check(driver_.cuStreamWaitEvent(callbacks_.get(), entry.ended->get(), 0), attempt);
  auto data = std::make_unique<std::shared_ptr<Signal>>(signal_);
  driver_.Check(driver_.cuLaunchHostFunc(callbacks_.get(), Signal::Ring, data.get()), attempt);
  static_cast<void>(data.release());
}

void StreamWorker::Loop::Settle() {
  while (!enqueued_.empty()) {
    const Result result = driver_.cuEventQuery(enqueued_.front().ended->get());
    if (result == kErrorNotReady) return;
    driver_.Check(result, "cannot " + enqueued_.front().operation.what);
    SettleFront();
  }
}

void StreamWorker::Loop::SettleFront() {
  last_progress_at_ = MonotonicMilliseconds();
  Entry& front = enqueued_.front();
  Outcome outcome;
  std::optional<OwnedEvent> spare =
      clock_.Locate({*front.started, std::move(*front.ended), front.found_idle, front.enqueued_at, last_progress_at_},
                    &outcome.interval);
  if (spare) spare_events_.push_back(std::move(*spare));
  spare_events_.push_back(std::move(*front.started));
  outcome.failure = front.failure;
  Operation operation = std::move(front.operation);
  enqueued_.pop_front();
  if (!outcome.failure && operation.collect) operation.collect();
  // Freed before `done`: its receiver expects that what it closed meanwhile is free again.
  const Done done = std::move(operation.done);
  operation = Operation{};
  done(outcome);
}

void StreamWorker::Loop::CheckProgress() const {
  if (enqueued_.empty()) return;
  const Operation& oldest = enqueued_.front().operation;
  const double limit = stall_milliseconds_ + static_cast<double>(oldest.bytes) / kBytesAMillisecond;
  if (MonotonicMilliseconds() - last_progress_at_ < limit) return;
  throw Failure(code::kDeviceLost, "cannot " + oldest.what + ": no progress for " +
                                       std::to_string(static_cast<int64_t>(limit)) + " ms, so the GPU hangs");
}

void StreamWorker::Loop::End(const Failure& failure) {
  // Whatever it is, the order of the stream is unknown from here on.
  const Failure lost(code::kDeviceLost, failure.what());
  {
    const Lock lock(signal_->mutex);
    lost_ = lost;
  }
  // Never freed, nor what the operations hold, nor the stream, whose end a hanging device would not let us see.
  static_cast<void>(new std::shared_ptr<Loop>(shared_from_this()));
  for (const Entry& entry : enqueued_) entry.operation.done({{}, lost});
}

void StreamWorker::Loop::RefuseRest() {
  std::deque<Operation> rest;
  std::optional<Failure> lost;
  {
    const Lock lock(signal_->mutex);
    rest.swap(submitted_);
    lost = lost_;
  }
  const Failure failure = lost ? *lost : Failure(code::kClosed, "device " + context_->uuid() + " is closed");
  for (const Operation& operation : rest) operation.done({{}, failure});
}

OwnedEvent StreamWorker::Loop::TakeEvent() {
  if (spare_events_.empty()) return OwnedEvent(context_, 0);
  OwnedEvent event = std::move(spare_events_.back());
  spare_events_.pop_back();
  return event;
}

}  // namespace weightcast::cuda
