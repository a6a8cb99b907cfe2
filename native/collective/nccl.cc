#include "collective/nccl.h"

#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "system/base.h"
#include "system/threads.h"

namespace weightcast::nccl {
namespace {

constexpr int kOldestVersion = 21900;
constexpr int kSharedDeviceVersion = 23007;

std::string TextOf(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

/// The library that WEIGHTCAST_NCCL names, or else "libnccl.so.2".
std::string LibraryName() {
  const char* const given = std::getenv("WEIGHTCAST_NCCL");
  return given != nullptr && *given != '\0' ? given : "libnccl.so.2";
}

/// Null if the dynamic linker does not load it; LinkerError() then says why.
void* Load(const std::string& name) {
  // NCCL reads its variables when it is loaded and used first. An existing value is the user's and stays.
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  return dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
}

std::string LinkerError(const std::string& name) {
  const char* const words = dlerror();
  return words != nullptr ? words : name;
}

void* Find(void* library, const std::string& name, const char* symbol) {
  void* const found = dlsym(library, symbol);
  if (found != nullptr) return found;
  throw Failure(code::kNccl,
                name + " has no function " + symbol + "; it is not NCCL " + TextOf(kOldestVersion) + " or newer");
}

std::string OneLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& each : text) {
    if (each == '\n') each = ' ';
  }
  return text;
}

}  // namespace

const Library& Library::Get() {
  // Never destroyed: threads may use it while the process exits.
  static const Library* const library = new Library;
  return *library;
}

Library::Library() {
  const std::string name = LibraryName();
  void* const library = Load(name);
  if (library == nullptr) {
    throw Failure(code::kNccl, "cannot load NCCL (" + LinkerError(name) +
                                   "); install it, or set WEIGHTCAST_NCCL to its " + "libnccl.so.2");
  }
#define WEIGHTCAST_FIND(result, function, parameters) \
  function = reinterpret_cast<decltype(function)>(Find(library, name, #function));
  WEIGHTCAST_NCCL_FUNCTIONS(WEIGHTCAST_FIND)
#undef WEIGHTCAST_FIND
  Check(ncclGetVersion(&version_), "cannot ask NCCL its version");
  if (version_ < kOldestVersion) {
    throw Failure(code::kNccl,
                  name + " is NCCL " + TextOf(version_) + "; " + TextOf(kOldestVersion) + " or newer is needed");
  }
}

int Library::InstalledVersion() {
  const std::string name = LibraryName();
  void* const library = Load(name);
  if (library == nullptr) throw Failure(code::kNccl, LinkerError(name));
  const auto get_version = reinterpret_cast<Result (*)(int*)>(Find(library, name, "ncclGetVersion"));
  int version = 0;
  if (get_version(&version) == kSuccess) return version;
  throw Failure(code::kNccl, name + " does not tell its version");
}

std::string Library::VersionText() const { return TextOf(version_); }

bool Library::AllowsSharedDevices() const { return version_ >= kSharedDeviceVersion; }

Failure Library::FailureOf(Result result, const std::string& attempt) const {
  std::string message = attempt + ": " + ncclGetErrorString(result);
  if (const char* const last = ncclGetLastError(nullptr); last != nullptr && *last != '\0') {
    message += " (" + OneLine(last) + ")";
  }
  if (result == kInvalidUsage && !AllowsSharedDevices()) {
    message += "; NCCL " + VersionText() + " refuses several ranks on one GPU, " + TextOf(kSharedDeviceVersion) +
               " allows them";
  }
  return Failure(result == kRemoteError ? code::kPeerLost : code::kNccl, message);
}

}  // namespace weightcast::nccl

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
    } catch (const std::exception&) {
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
    return state.nccl.ncclCommInitRankConfig(&state.communicator, static_cast<int>(ranks), id, static_cast<int>(rank),
                                             &config);
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
    Run(
        "NCCL cannot finalise", [](State& state) { return state.nccl.ncclCommFinalize(state.communicator); },
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
