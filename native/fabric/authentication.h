#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "system/bytes.h"

namespace weightcast {

/// A fabric among all others: random, new for each one that is opened.
using FabricId = std::array<uint8_t, 16>;
using Nonce = std::array<uint8_t, 32>;
/// HMAC-SHA-256.
using Proof = std::array<uint8_t, 32>;

/// Fills bytes from the kernel's random source.
void FillRandom(uint8_t* bytes, size_t count);

template <class Array>
Array RandomArray() {
  Array array;
  FillRandom(array.data(), array.size());
  return array;
}

/// What a connection is for.
enum class Purpose : uint8_t { kControl = 1, kStream = 2 };

/// How two processes prove to each other that they know the cluster's secret, before anything else is said. The
/// dialler sends a Hello, the other side answers a Challenge, the dialler a Proof:
///
///   Challenge.proof = HMAC(secret, "weightcast fabric: listener" | Hello | Challenge.nonce)
///   Proof           = HMAC(secret, "weightcast fabric: dialler"  | Hello | Challenge)
///
/// Both nonces and the fabric that is asked for are in both proofs, so none is of use in another connection, with
/// another fabric, or in the other direction. What follows is neither encrypted nor signed: like RDMA itself, it
/// trusts the network not to alter it.
struct Hello {
  static constexpr size_t kBytes = 64;
  Purpose purpose;
  FabricId target;
  Nonce nonce;

  std::array<uint8_t, kBytes> Encoded() const;
  /// False if this is not a Hello of this version.
  static bool Decode(const uint8_t* bytes, Hello* hello);
};

struct Challenge {
  static constexpr size_t kBytes = 64;
  Nonce nonce;
  Proof proof;

  std::array<uint8_t, kBytes> Encoded() const;
  static Challenge Decoded(const uint8_t* bytes);
};

Proof ListenerProof(const Bytes& secret, const Hello& hello, const Nonce& nonce);
Proof DiallerProof(const Bytes& secret, const Hello& hello, const Challenge& challenge);
/// Takes the same time wherever they differ.
bool SameProof(const Proof& one, const Proof& other);

}  // namespace weightcast
