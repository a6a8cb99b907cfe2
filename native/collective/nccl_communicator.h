#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "collective/nccl_library.h"
#include "device/cuda/primary_context.h"
#include "system/call_thread.h"

namespace weightcast {

/// One non-blocking communicator of NCCL. What may hang inside NCCL hangs on a thread of the communicator's own; the
/// functions here return when their caller has had enough.
///
/// Used from one thread at a time, in whose context the device is.
class NcclCommunicator {
 public:
  /// Called again and again while NCCL works; sleeps for at most so many milliseconds, and throws to give up. What was
  /// given up goes on until Abort.
  using Pause = std::function<void(double milliseconds)>;

  struct Operation {
    /// Null but on the root.
    cuda::DevicePointer source;
    cuda::DevicePointer destination;
    uint64_t bytes;
    uint32_t root;
  };

  /// Throws NCCL if there is none that will do.
  explicit NcclCommunicator(std::shared_ptr<const cuda::PrimaryContext> context);

  /// Joins the others. Throws NCCL or PEER_LOST, as the two below do.
  void Initialise(const nccl::UniqueId& id, uint32_t rank, uint32_t ranks, const Pause& pause);
  /// Appends a broadcast to the stream, and returns once it is there.
  void Broadcast(const Operation& operation, cuda::Stream stream, const Pause& pause);
  /// Throws if something has gone wrong in the background.
  void CheckHealth() const;

  /// Leaves once all that was given is done. False if the communicator could not be ended in the time: then NCCL
  /// still holds device memory and a thread, for as long as the process lives.
  bool Close(double milliseconds);
  /// Ends at once what runs on the device, and leaves. False as for Close.
  bool Abort(double milliseconds);

 private:
  /// What calls of NCCL use: lives as long as any of them.
  struct State {
    const nccl::Library& nccl;
    const std::shared_ptr<const cuda::PrimaryContext> context;
    nccl::Communicator communicator = nullptr;
  };
  using Call = std::function<nccl::Result(State& state)>;

  void Begin(Call call);
  /// Makes a call and waits until NCCL has done what it asks for.
  void Run(const char* attempt, Call call, const Pause& pause);
  void AwaitProgress(const char* attempt, const Pause& pause) const;

  const std::shared_ptr<State> state_;
  /// What the call that was made last has returned.
  std::shared_ptr<nccl::Result> result_;
  CallThread calls_{"weightcast-nccl"};
};

}  // namespace weightcast
