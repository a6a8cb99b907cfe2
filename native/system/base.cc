#include "system/base.h"

#include <sys/random.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <exception>
#include <system_error>
#include <utility>

namespace weightcast {

Failure::Failure(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}

Failure Failure::System(int error_number, const std::string& attempt) {
  // Not strerror(3), which need not be safe among threads.
  Failure failure("", attempt + ": " + std::generic_category().message(error_number));
  failure.error_number_ = error_number;
  return failure;
}

Failure CurrentFailure() {
  try {
    throw;
  } catch (const Failure& failure) {
    return failure;
  } catch (const std::exception& thrown) {
    return Failure("EIO", thrown.what());
  }
}

std::string ByteSize(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " bytes";
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double amount = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (amount >= 1024 && unit + 1 < sizeof(kUnits) / sizeof(kUnits[0])) {
    amount /= 1024;
    unit++;
  }
  const double rounded = std::round(amount * 10) / 10;
  char text[32];
  std::snprintf(text, sizeof(text), rounded == std::floor(rounded) ? "%.0f %s" : "%.1f %s", rounded, kUnits[unit]);
  return text;
}

double MonotonicMilliseconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

void FillRandom(uint8_t* bytes, size_t count) {
  while (count > 0) {
    const ssize_t got = getrandom(bytes, count, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Failure::System(errno, "cannot get random bytes");
    bytes += got;
    count -= static_cast<size_t>(got);
  }
}

}  // namespace weightcast
