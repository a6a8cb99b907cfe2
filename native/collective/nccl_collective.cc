#include "collective/nccl_collective.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "system/faults.h"
#include "system/threads.h"

namespace weightcast {
namespace {

constexpr char kBroken[] = "a broadcast failed on the device";
constexpr double kMostDrainSleepMilliseconds = 2;

cuda::DevicePointer PointerTo(const cuda::DeviceLocation& place) {
  return place.block ? place.block->pointer() + place.offset : 0;
}

}  // namespace

NcclPipeline::NcclPipeline(std::shared_ptr<const cuda::PrimaryContext> context)
    : context_(std::move(context)), driver_(context_->driver()), stream_(context_), clock_(driver_) {}

double NcclPipeline::Deadline() const {
  double earliest = std::numeric_limits<double>::infinity();
  for (const InFlight& each : in_flight_) earliest = std::min(earliest, each.broadcast.deadline);
  return earliest;
}

void NcclPipeline::Issue(NcclCommunicator& communicator, NcclBroadcast broadcast,
                         const NcclCommunicator::Pause& pause) {
  const bool found_idle = IsEmpty();
  // First of all, so that its `done` is called whatever throws below. Pauses may take broadcasts out at the front, but
  // not this one: references into a deque stay valid.
  in_flight_.emplace_back();
  InFlight& own = in_flight_.back();
  own.broadcast = std::move(broadcast);
  own.started = TakeEvent();
  own.ended = TakeEvent();
  own.found_idle = found_idle;
  own.enqueued_at = MonotonicMilliseconds();
  driver_.Check(driver_.cuEventRecord(own.started->get(), stream_.get()), kBroken);
  faults::StrikeOrThrow(faults::Point::kBroadcast);
  const NcclBroadcast& given = own.broadcast;
  communicator.Broadcast({PointerTo(given.source), PointerTo(given.destination), given.bytes, given.root},
                         stream_.get(), pause);
  driver_.Check(driver_.cuEventRecord(own.ended->get(), stream_.get()), kBroken);
  own.is_issued = true;
}

std::vector<NcclPipeline::Ended> NcclPipeline::TakeEnded() {
  std::vector<Ended> all;
  while (!in_flight_.empty() && in_flight_.front().is_issued) {
    const cuda::Result result = driver_.cuEventQuery(in_flight_.front().ended->get());
    if (result == cuda::kErrorNotReady) break;
    driver_.Check(result, kBroken);
    all.push_back(TakeFront());
  }
  return all;
}

NcclPipeline::Ended NcclPipeline::TakeFront() {
  InFlight first = std::move(in_flight_.front());
  in_flight_.pop_front();
  Ended ended{std::move(first.broadcast.done), {}};
  std::optional<cuda::OwnedEvent> spare = clock_.Locate(
      {*first.started, std::move(*first.ended), first.found_idle, first.enqueued_at, MonotonicMilliseconds()},
      &ended.interval);
  if (spare) spare_events_.push_back(std::move(*spare));
  spare_events_.push_back(std::move(*first.started));
  return ended;
}

bool NcclPipeline::Drain(double milliseconds) {
  const double deadline = MonotonicMilliseconds() + milliseconds;
  Backoff backoff(kMostDrainSleepMilliseconds);
  while (driver_.cuStreamQuery(stream_.get()) == cuda::kErrorNotReady) {
    if (MonotonicMilliseconds() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(backoff.Next()));
  }
  // Also when the query failed: no kernel runs in a context that is lost.
  return true;
}

std::vector<Done> NcclPipeline::Abandon() {
  std::vector<Done> all;
  for (InFlight& each : in_flight_) all.push_back(std::move(each.broadcast.done));
  return all;
}

cuda::OwnedEvent NcclPipeline::TakeEvent() {
  if (spare_events_.empty()) return cuda::OwnedEvent(context_, 0);
  cuda::OwnedEvent event = std::move(spare_events_.back());
  spare_events_.pop_back();
  return event;
}

namespace {

/// How long an abort may take: NCCL stops its kernels, its threads and its connections.
constexpr double kAbortMilliseconds = 5000;
/// How long a communicator that is idle may take to be taken down, before it is aborted.
constexpr double kCloseMilliseconds = 3000;
/// Between two polls of the broadcasts in flight.
constexpr double kMostSleepMilliseconds = 0.5;

std::chrono::duration<double, std::milli> Milliseconds(double number) {
  return std::chrono::duration<double, std::milli>(number);
}

}  // namespace

NcclCollective::NcclCollective(std::shared_ptr<const cuda::PrimaryContext> context, const Options& options)
    : context_(std::move(context)),
      id_(options.id),
      rank_(options.rank),
      world_size_(options.world_size),
      communicator_(std::make_unique<NcclCommunicator>(context_)),
      membership_(std::make_unique<Membership>(options.path, rank_, world_size_)) {}

NcclCollective::~NcclCollective() { CloseAndWait(); }

void NcclCollective::Open(double deadline, Done opened) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || thread_.joinable()) throw Failure(code::kClosed, "the collective has been opened before");
  pending_ = 1;
  thread_ =
      StartThread("weightcast-coll", [this, deadline, opened = std::move(opened)] { RunThread(deadline, opened); });
}

void NcclCollective::Submit(NcclBroadcast broadcast) {
  CheckArguments(broadcast);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || !thread_.joinable()) throw Failure(code::kClosed, "the collective is closed");
  CheckQueue(queue_.size());
  queue_.push_back(std::move(broadcast));
  pending_++;
  changed_.notify_one();
}

void NcclCollective::CheckArguments(const NcclBroadcast& broadcast) const {
  CheckRoot(broadcast.root, rank_, world_size_, broadcast.source.block != nullptr);
  for (const cuda::DeviceLocation& place : {broadcast.source, broadcast.destination}) {
    if (place.block) place.block->CheckRange(place.offset, broadcast.bytes);
  }
}

void NcclCollective::Abort() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (membership_) membership_->End(Cause::kAborted);
  changed_.notify_one();
}

void NcclCollective::Close(Done closed) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  closed_ = true;
  if (thread_.joinable()) {
    on_closed_ = std::move(closed);
    if (pending_ > 0) membership_->End(Cause::kAborted);
    changed_.notify_one();
    return;
  }
  membership_.reset();
  closed(Outcome{});
}

void NcclCollective::CloseAndWait() {
  Close([](const Outcome&) {});
  if (thread_.joinable()) thread_.join();
}

void NcclCollective::RunThread(double deadline, const Done& opened) {
  Outcome outcome;
  outcome.interval.started_at = MonotonicMilliseconds();
  std::optional<cuda::CurrentContext> current;
  try {
    current.emplace(context_->driver(), context_->context());
    Initialise(deadline);
  } catch (...) {
    Fail(CurrentFailure());
  }
  outcome.failure = failure_;
  outcome.interval.ended_at = MonotonicMilliseconds();
  Settle(opened, outcome);
  Serve();
  Leave();
}

void NcclCollective::Initialise(double deadline) {
  membership_->Begin(0, "opening a communicator");
  pipeline_ = std::make_unique<NcclPipeline>(context_);
  communicator_->Initialise(id_, rank_, world_size_, [this, deadline](double milliseconds) {
    std::this_thread::sleep_for(Milliseconds(milliseconds));
    CheckProgress(deadline);
  });
  membership_->Complete(0);
  issued_ = completed_ = 1;
}

void NcclCollective::Serve() {
  Backoff backoff(kMostSleepMilliseconds);
  std::optional<NcclBroadcast> next;
  while (Await(next, backoff.Next())) {
    if (next) backoff.Reset();
    try {
      if (next) Issue(*std::exchange(next, std::nullopt));
      if (failure_ || pipeline_->IsEmpty()) continue;
      communicator_->CheckHealth();
      CheckProgress(pipeline_->Deadline());
    } catch (...) {
      Fail(CurrentFailure());
    }
  }
}

bool NcclCollective::Await(std::optional<NcclBroadcast>& next, double milliseconds) {
  const bool is_empty = failure_ || pipeline_->IsEmpty();
  const bool has_room = failure_ || pipeline_->HasRoom();
  const auto ready = [&] { return closed_ || (has_room && !queue_.empty()); };
  std::unique_lock<std::mutex> lock(mutex_);
  if (is_empty) {
    changed_.wait(lock, ready);
  } else {
    changed_.wait_for(lock, Milliseconds(milliseconds), ready);
  }
  if (has_room && !queue_.empty()) {
    next = std::move(queue_.front());
    queue_.pop_front();
  }
  return next || !is_empty || !closed_;
}

void NcclCollective::Issue(NcclBroadcast broadcast) {
  if (failure_) return Settle(broadcast.done, {{}, failure_});
  const uint64_t operation = issued_++;
  membership_->Begin(operation, "broadcast " + std::to_string(operation - 1));
  const auto pause = [this](double milliseconds) {
    std::this_thread::sleep_for(Milliseconds(milliseconds));
    CheckProgress(pipeline_->Deadline());
  };
  pipeline_->Issue(*communicator_, std::move(broadcast), pause);
}

void NcclCollective::CheckProgress(double deadline) {
  membership_->ThrowIfEnded();
  SettleComplete();
  const double now = MonotonicMilliseconds();
  if (now >= peers_checked_at_ + Membership::kSliceMilliseconds) {
    membership_->CheckPeers([this](uint32_t rank) { return IsAwaited(rank); });
    peers_checked_at_ = now;
  }
  // Which ranks of other hosts have begun is not known.
  if (now >= deadline) {
    membership_->ExpireDeadline([this](uint32_t rank) {
      return IsAwaited(rank) && membership_->IsPresent(rank) && membership_->Begun(rank) <= completed_;
    });
  }
}

bool NcclCollective::IsAwaited(uint32_t rank) { return rank != rank_ && membership_->Completed(rank) <= completed_; }

void NcclCollective::SettleComplete() {
  for (const NcclPipeline::Ended& ended : pipeline_->TakeEnded()) {
    membership_->Complete(completed_++);
    Settle(ended.done, {ended.interval, std::nullopt});
  }
}

void NcclCollective::Fail(const Failure& cause) {
  failure_ = RootCauseOf(cause);
  membership_->End(Cause::kFailed);
  const bool has_let_go =
      communicator_->Abort(kAbortMilliseconds) && (!pipeline_ || pipeline_->Drain(kAbortMilliseconds));
  if (!has_let_go) failure_ = StuckFailure(failure_->what());
  communicator_.reset();
  if (!pipeline_) return;
  const std::vector<Done> abandoned = pipeline_->Abandon();
  // Destroying a stream and freeing memory may wait for kernels that use them, and these never end.
  if (!has_let_go) static_cast<void>(pipeline_.release());
  pipeline_.reset();
  for (const Done& done : abandoned) Settle(done, {{}, failure_});
}

Failure NcclCollective::RootCauseOf(const Failure& failure) {
  try {
    membership_->ThrowIfEnded();
    membership_->CheckPeers([this](uint32_t rank) { return IsAwaited(rank); });
  } catch (const Failure& cause) {
    return cause;
  }
  return failure;
}

Failure NcclCollective::StuckFailure(const std::string& reason) const {
  return Failure(code::kDeviceLost, "NCCL does not let go of device " + context_->uuid() +
                                        "; this process must be started again (" + reason + ")");
}

void NcclCollective::Leave() {
  Outcome outcome;
  if (failure_) {
    if (failure_->code() == code::kDeviceLost) outcome.failure = failure_;
  } else if (!communicator_->Close(kCloseMilliseconds)) {
    outcome.failure = StuckFailure("it was asked to close an idle communicator");
  }
  communicator_.reset();
  pipeline_.reset();
  const std::lock_guard<std::mutex> lock(mutex_);
  membership_.reset();
  on_closed_(outcome);
}

void NcclCollective::Settle(const Done& done, const Outcome& outcome) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // Together with `done`, whose receiver may close the collective: that must not be an abort then.
  pending_--;
  done(outcome);
}

}  // namespace weightcast
