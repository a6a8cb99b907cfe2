#pragma once

#include <cstdint>
#include <cstring>

#include "fabric/exposure.h"

namespace weightcast {

/// What is said between two fabrics after the handshake.

/// Types of frames on a control connection, with their fields.
namespace frame {
/// Reader: u32 request, Token.
inline constexpr uint8_t kAttach = 1;
/// Source: u32 request, u8 Verdict, u64 bytes. Over a Unix socket the file and the state file come with it. Where
/// lanes are open, u64 address and for each RDMA port of the source its u32 rkey follow.
inline constexpr uint8_t kAttached = 2;
/// Source: Token. It will not be read any more.
inline constexpr uint8_t kWithdrawn = 3;
/// Reader: asks for queue pairs; see verbs_carrier.h.
inline constexpr uint8_t kOpenLanes = 4;
/// Source: the other ends of them.
inline constexpr uint8_t kLanesOpen = 5;
}  // namespace frame

enum class Verdict : uint8_t { kGood = 0, kWithdrawn = 1, kOutOfRange = 2, kFull = 3 };

/// What a reader sends on a stream, for each piece that it wants; as it lies in memory.
struct StreamRequest {
  Token token;
  uint64_t offset;
  uint32_t bytes;
  uint32_t reserved;
};
static_assert(sizeof(StreamRequest) == 32, "the form on the wire");

/// What a source answers: this, then (if the verdict is good) the bytes, then a StreamTrailer.
struct StreamHeader {
  uint32_t verdict;
  uint32_t bytes;
};
static_assert(sizeof(StreamHeader) == 8, "the form on the wire");

/// Only now it is known whether the bytes before it are what the segment held while it was exposed.
struct StreamTrailer {
  uint32_t verdict;
};
static_assert(sizeof(StreamTrailer) == 4, "the form on the wire");

/// Of one piece, and so of what is in flight for one request.
inline constexpr uint32_t kLargestPiece = 16 << 20;
/// How many requests a source takes on a stream before the first is answered.
inline constexpr size_t kMostRequests = 64;

}  // namespace weightcast
