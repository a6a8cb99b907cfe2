#pragma once

#include <cstdint>

namespace weightcast {

/// Free and total device memory in bytes.
struct DeviceMemory {
  uint64_t free;
  uint64_t total;
};

}  // namespace weightcast
