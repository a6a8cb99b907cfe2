#pragma once

#include <stdexcept>
#include <string>

namespace weightcast {

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

  /// A system call that failed: `attempt` ("cannot open /dev/shm/a") followed by the system's own words.
  static Failure System(int error_number, const std::string& attempt);

  /// Empty when error_number() is set.
  const std::string& code() const { return code_; }
  int error_number() const { return error_number_; }

 private:
  std::string code_;
  int error_number_ = 0;
};

}  // namespace weightcast
