#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "device/cuda/context.h"
#include "system/base.h"
#include "system/threads.h"

namespace weightcast::nccl {

/// The part of NCCL that we use, declared here so that no NCCL is needed to build. Types and numbers have the ABI of
/// nccl.h of version 2.19, which newer versions keep.

/// ncclResult_t.
using Result = int;
inline constexpr Result kSuccess = 0;
inline constexpr Result kUnhandledCudaError = 1;
inline constexpr Result kInvalidUsage = 5;
inline constexpr Result kRemoteError = 6;
inline constexpr Result kInProgress = 7;
/// ncclUint8 of ncclDataType_t.
inline constexpr int kUint8 = 1;

using Communicator = struct ncclComm*;
/// cudaStream_t, which is the driver's CUstream.
using Stream = void*;

struct UniqueId {
  static constexpr size_t kBytes = 128;
  char bytes[kBytes];
};

/// ncclConfig_t of 2.17 to 2.24. A library looks at `size` and `version` to know which fields follow, and takes its own
/// defaults for those that a newer header adds.
struct Config {
  static constexpr int kUndefined = -2147483647 - 1;

  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21900;
  int blocking = kUndefined;
  int cluster_size = kUndefined;
  int least_blocks = kUndefined;
  int most_blocks = kUndefined;
  const char* network = nullptr;
  int share_on_split = kUndefined;
};
static_assert(sizeof(Config) == 48 && offsetof(Config, network) == 32, "the layout of nccl.h");

#define WEIGHTCAST_NCCL_FUNCTIONS(FUNCTION)                                                                    \
  FUNCTION(Result, ncclGetVersion, (int* version))                                                             \
  FUNCTION(Result, ncclGetUniqueId, (UniqueId * id))                                                           \
  FUNCTION(Result, ncclCommInitRankConfig,                                                                     \
           (Communicator * communicator, int ranks, UniqueId id, int rank, Config* config))                    \
  FUNCTION(Result, ncclCommFinalize, (Communicator communicator))                                              \
  FUNCTION(Result, ncclCommDestroy, (Communicator communicator))                                               \
  FUNCTION(Result, ncclCommAbort, (Communicator communicator))                                                 \
  FUNCTION(Result, ncclCommGetAsyncError, (Communicator communicator, Result * error))                         \
  FUNCTION(Result, ncclBroadcast,                                                                              \
           (const void* source, void* destination, size_t count, int type, int root, Communicator communicator, \
            Stream stream))                                                                                    \
  FUNCTION(const char*, ncclGetErrorString, (Result result))                                                   \
  FUNCTION(const char*, ncclGetLastError, (Communicator communicator))

/// The functions of NCCL. One for the process; never unloaded, because NCCL has threads of its own.
class Library {
 public:
  /// Loads the library that WEIGHTCAST_NCCL names, or else libnccl.so.2, on the first call. Throws NCCL if it is
  /// missing or too old; a later call tries again.
  ///
  /// Sets, where the environment does not: NCCL_MULTI_RANK_GPU_ENABLE=1, without which several ranks on one GPU are
  /// refused, and NCCL_NVLS_ENABLE=0, because broadcast does not use NVLink multicast and setting it up costs every
  /// communicator time and device memory.
  static const Library& Get();
  /// The version of the library that Get() would load, also if that is too old for it: 10000 * major + 100 * minor +
  /// patch. Throws NCCL with the linker's error text where there is none.
  static int InstalledVersion();

  /// "2.30.7".
  std::string VersionText() const;
  /// Whether several ranks of a communicator may be on one GPU.
  bool AllowsSharedDevices() const;

  /// Throws FailureOf() unless the call succeeded.
  void Check(Result result, const std::string& attempt) const {
    if (result != kSuccess) throw FailureOf(result, attempt);
  }
  /// The attempt followed by NCCL's error text, on one line. PEER_LOST if NCCL blames another rank, or else NCCL.
  Failure FailureOf(Result result, const std::string& attempt) const;

#define WEIGHTCAST_DECLARE(result, name, parameters) result(*name) parameters = nullptr;
  WEIGHTCAST_NCCL_FUNCTIONS(WEIGHTCAST_DECLARE)
#undef WEIGHTCAST_DECLARE

 private:
  Library();

  int version_ = 0;
};

}  // namespace weightcast::nccl

namespace weightcast {

/// One non-blocking communicator of NCCL. What may hang inside NCCL hangs on a thread of the communicator's own; the
/// functions here return when their caller has had enough.
///
/// Used from one thread at a time, in whose context the device is.
class NcclCommunicator {
 public:
  /// Called again and again while NCCL works; sleeps for at most so many milliseconds, and throws to give up. What was
  /// given up goes on until Abort().
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

  /// Leaves once all broadcasts are done. False if the communicator could not be ended in the time: then NCCL
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
