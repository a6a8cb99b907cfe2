#pragma once

#include <cstdint>
#include <cstring>

namespace weightcast {

/// Adds to a double that JavaScript reads as an element of a Float64Array. Several threads add at once and none of
/// the sums may get lost. Does nothing for null, where nobody wants to know.
inline void AddTo(double* counter, uint64_t bytes) {
  if (counter == nullptr) return;
  static_assert(sizeof(double) == sizeof(uint64_t));
  auto* const word = reinterpret_cast<uint64_t*>(counter);
  uint64_t before = __atomic_load_n(word, __ATOMIC_RELAXED);
  uint64_t after;
  do {
    double value;
    std::memcpy(&value, &before, sizeof(value));
    value += static_cast<double>(bytes);
    std::memcpy(&after, &value, sizeof(after));
  } while (!__atomic_compare_exchange_n(word, &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

}  // namespace weightcast
