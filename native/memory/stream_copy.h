#pragma once

#include <cstddef>
#include <cstdint>

namespace weightcast {

/// memcpy for weights: long copies go past the caches, which would only be emptied of what others use and would
/// read each destination line before it is overwritten. Source and destination do not overlap.
void StreamCopy(uint8_t* destination, const uint8_t* source, size_t bytes);

}  // namespace weightcast
