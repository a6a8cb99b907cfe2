#pragma once

#include <cstddef>
#include <cstdint>

namespace weightcast {

/// memcpy for weights: long copies go past the caches, which would only be emptied of what others use and would
/// read each destination line before it is overwritten. Source and destination do not overlap.
void StreamCopy(uint8_t* destination, const uint8_t* source, size_t bytes);

/// The same for one row of a copy that has `whole` bytes in all its rows. The caller calls StreamFence() after its
/// last row, on the same thread.
void StreamRow(uint8_t* destination, const uint8_t* source, size_t bytes, size_t whole);

/// Streamed stores are not ordered with the stores by which other threads learn that a copy is done; after this they
/// are.
void StreamFence();

}  // namespace weightcast
