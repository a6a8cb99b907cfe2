#pragma once

#include <unistd.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

/// What everything else rests on: bytes, descriptors, the clock, failures, and how work reports its end.

namespace weightcast {

using Bytes = std::vector<uint8_t>;

/// Owns a file descriptor; -1 is none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int descriptor) : descriptor_(descriptor) {}
  UniqueFd(UniqueFd&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~UniqueFd() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  int get() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

/// "512 bytes", "64 MiB", "1.5 GiB": for messages. Rounded to one decimal from KiB on.
std::string ByteSize(uint64_t bytes);

/// CLOCK_MONOTONIC in milliseconds: one time for all processes of a host.
double MonotonicMilliseconds();

/// Fills bytes from the kernel's random source.
void FillRandom(uint8_t* bytes, size_t count);

/// When an operation ran, in milliseconds of MonotonicMilliseconds().
struct Interval {
  double started_at = 0;
  double ended_at = 0;
};

/// The codes of our own failures, as JavaScript sees them in `error.code`.
namespace code {
inline constexpr char kOutOfRange[] = "OUT_OF_RANGE";
inline constexpr char kClosed[] = "CLOSED";
inline constexpr char kAborted[] = "ABORTED";
inline constexpr char kDeadline[] = "DEADLINE";
inline constexpr char kPeerLost[] = "PEER_LOST";
inline constexpr char kOutOfDeviceMemory[] = "OUT_OF_DEVICE_MEMORY";
inline constexpr char kFileEnded[] = "FILE_ENDED";
inline constexpr char kUnauthenticated[] = "UNAUTHENTICATED";
inline constexpr char kWithdrawn[] = "WITHDRAWN";
/// A queue is at its limit.
inline constexpr char kOverloaded[] = "OVERLOADED";
/// A call of the CUDA driver failed, or there is no driver.
inline constexpr char kCuda[] = "CUDA";
/// A call of NCCL failed, or there is no NCCL that will do.
inline constexpr char kNccl[] = "NCCL";
/// No call on the device will succeed in this process any more.
inline constexpr char kDeviceLost[] = "DEVICE_LOST";
}  // namespace code

/// What native code throws: one line for a person, and either one of our codes or the number of a system error.
class Failure : public std::runtime_error {
 public:
  Failure(std::string code, const std::string& message);

  /// A system call that failed: `attempt` ("cannot open /dev/shm/a") followed by the system's error text.
  static Failure System(int error_number, const std::string& attempt);

  /// Empty when error_number() is set.
  const std::string& code() const { return code_; }
  int error_number() const { return error_number_; }

 private:
  std::string code_;
  int error_number_ = 0;
};

/// In a catch block: the exception in hand, as one of code EIO if it is no Failure.
Failure CurrentFailure();

/// How work on a native thread ended.
struct Outcome {
  Interval interval;
  std::optional<Failure> failure;
};

/// The callback of work on a native thread. Called exactly once, on the thread that ended the work; never if the work
/// is dropped because the process or the JavaScript environment ends. It must not call back into the object that does
/// the work, which may hold a lock. A throw ends the process: see addon.cc for what may throw where.
class Done {
 public:
  Done() = default;
  template <class Call, class = std::enable_if_t<!std::is_same_v<std::decay_t<Call>, Done>>>
  Done(Call call) : call_(std::move(call)) {}

  void operator()(const Outcome& outcome) const noexcept { call_(outcome); }
  explicit operator bool() const { return static_cast<bool>(call_); }

 private:
  std::function<void(const Outcome&)> call_;
};

}  // namespace weightcast
