#pragma once

#include <cstdint>
#include <vector>

namespace weightcast {

using Bytes = std::vector<uint8_t>;

}  // namespace weightcast
