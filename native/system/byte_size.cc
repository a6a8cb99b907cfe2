#include "system/byte_size.h"

#include <cmath>
#include <cstdio>

namespace weightcast {

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

}  // namespace weightcast
