#include "collective/nccl_communicator.h"

#include <chrono>
#include <thread>
#include <utility>

#include "system/backoff.h"
#include "system/clock.h"

namespace weightcast {
namespace {

/// How long a call is waited for before its caller is asked again whether to go on.
constexpr double kSliceMilliseconds = 5;
/// Between two looks at what NCCL does in the background.
constexpr double kMostSleepMilliseconds = 2;

}  // namespace

NcclCommunicator::NcclCommunicator(std::shared_ptr<const cuda::PrimaryContext> context)
    : state_(new State{nccl::Library::Get(), std::move(context)}) {}

void NcclCommunicator::Begin(Call call) {
  result_ = std::make_shared<nccl::Result>(nccl::kSuccess);
  calls_.Begin([state = state_, result = result_, call = std::move(call)] {
    try {
      // NCCL takes the device of its caller's context.
      const cuda::CurrentContext current(state->context->driver(), state->context->context());
      *result = call(*state);
    } catch (const Failure&) {
      *result = nccl::kUnhandledCudaError;
    }
  });
}

void NcclCommunicator::Run(const char* attempt, Call call, const Pause& pause) {
  Begin(std::move(call));
  while (!calls_.Wait(kSliceMilliseconds)) pause(0);
  if (*result_ != nccl::kInProgress) state_->nccl.Check(*result_, attempt);
  AwaitProgress(attempt, pause);
}

void NcclCommunicator::AwaitProgress(const char* attempt, const Pause& pause) const {
  Backoff backoff(kMostSleepMilliseconds);
  for (;;) {
    nccl::Result state = nccl::kSuccess;
    state_->nccl.Check(state_->nccl.ncclCommGetAsyncError(state_->communicator, &state), attempt);
    if (state != nccl::kInProgress) return state_->nccl.Check(state, attempt);
    pause(backoff.Next());
  }
}

void NcclCommunicator::Initialise(const nccl::UniqueId& id, uint32_t rank, uint32_t ranks, const Pause& pause) {
  const auto call = [id, rank, ranks](State& state) {
    nccl::Config config;
    config.blocking = 0;
    return state.nccl.ncclCommInitRankConfig(&state.communicator, static_cast<int>(ranks), id,
                                             static_cast<int>(rank), &config);
  };
  Run("NCCL cannot open a communicator", call, pause);
}

void NcclCommunicator::Broadcast(const Operation& operation, cuda::Stream stream, const Pause& pause) {
  const auto call = [operation, stream](State& state) {
    return state.nccl.ncclBroadcast(reinterpret_cast<const void*>(operation.source),
                                    reinterpret_cast<void*>(operation.destination), operation.bytes, nccl::kUint8,
                                    static_cast<int>(operation.root), state.communicator, stream);
  };
  Run("NCCL cannot broadcast", call, pause);
}

void NcclCommunicator::CheckHealth() const {
  constexpr char kAttempt[] = "NCCL has failed in the background";
  nccl::Result state = nccl::kSuccess;
  state_->nccl.Check(state_->nccl.ncclCommGetAsyncError(state_->communicator, &state), kAttempt);
  if (state != nccl::kInProgress) state_->nccl.Check(state, kAttempt);
}

bool NcclCommunicator::Close(double milliseconds) {
  const double deadline = MonotonicMilliseconds() + milliseconds;
  const Pause until_deadline = [deadline](double sleep) {
    if (MonotonicMilliseconds() >= deadline) throw Failure(code::kDeadline, "NCCL does not come to rest");
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(sleep));
  };
  try {
    Run("NCCL cannot finalise", [](State& state) { return state.nccl.ncclCommFinalize(state.communicator); },
        until_deadline);
  } catch (const Failure&) {
    return Abort(milliseconds);
  }
  Begin([](State& state) { return state.nccl.ncclCommDestroy(std::exchange(state.communicator, nullptr)); });
  return calls_.Wait(milliseconds);
}

bool NcclCommunicator::Abort(double milliseconds) {
  if (!calls_.Wait(milliseconds)) return false;
  if (state_->communicator == nullptr) return true;
  Begin([](State& state) { return state.nccl.ncclCommAbort(std::exchange(state.communicator, nullptr)); });
  return calls_.Wait(milliseconds);
}

}  // namespace weightcast
