#include "memory/stream_copy.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace weightcast {

#if defined(__x86_64__)
namespace {

/// Below this a copy may well be read again from the cache.
constexpr size_t kLong = size_t{256} << 10;
constexpr size_t kLine = 64;

}  // namespace

void StreamCopy(uint8_t* destination, const uint8_t* source, size_t bytes) {
  size_t head = bytes;
  if (bytes >= kLong) head = (kLine - reinterpret_cast<uintptr_t>(destination) % kLine) % kLine;
  std::memcpy(destination, source, head);
  size_t done = head;
  for (; bytes - done >= kLine; done += kLine) {
    const auto* const from = reinterpret_cast<const __m128i*>(source + done);
    auto* const to = reinterpret_cast<__m128i*>(destination + done);
    const __m128i first = _mm_loadu_si128(from);
    const __m128i second = _mm_loadu_si128(from + 1);
    const __m128i third = _mm_loadu_si128(from + 2);
    const __m128i fourth = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, first);
    _mm_stream_si128(to + 1, second);
    _mm_stream_si128(to + 2, third);
    _mm_stream_si128(to + 3, fourth);
  }
  // Streamed stores are not ordered with the stores by which other threads learn that the copy is done.
  if (bytes >= kLong) _mm_sfence();
  std::memcpy(destination + done, source + done, bytes - done);
}
#else
void StreamCopy(uint8_t* destination, const uint8_t* source, size_t bytes) {
  std::memcpy(destination, source, bytes);
}
#endif

}  // namespace weightcast
