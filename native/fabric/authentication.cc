#include "fabric/authentication.h"

// Node's own OpenSSL: every Node.js exports it to addons, with its headers. The one call used here has been the same
// since OpenSSL 0.9.
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "system/failure.h"

namespace weightcast {
namespace {

/// The last byte is the version of the protocol.
constexpr uint8_t kMagic[] = {'w', 'e', 'i', 'g', 'h', 't', 'c', 1};

template <class... Parts>
Proof Mac(const Bytes& secret, const std::string& label, const Parts&... parts) {
  Bytes text(label.begin(), label.end());
  (text.insert(text.end(), parts.begin(), parts.end()), ...);
  Proof proof;
  unsigned length = 0;
  const uint8_t* const made = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), text.data(),
                                   text.size(), proof.data(), &length);
  if (made == nullptr || length != proof.size()) throw Failure("EIO", "OpenSSL has no HMAC-SHA-256");
  return proof;
}

}  // namespace

void FillRandom(uint8_t* bytes, size_t count) {
  while (count > 0) {
    const ssize_t got = getrandom(bytes, count, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Failure::System(errno, "cannot get random bytes");
    bytes += got;
    count -= static_cast<size_t>(got);
  }
}

std::array<uint8_t, Hello::kBytes> Hello::Encoded() const {
  std::array<uint8_t, kBytes> bytes{};
  auto at = std::copy(std::begin(kMagic), std::end(kMagic), bytes.begin());
  *at = static_cast<uint8_t>(purpose);
  at = std::copy(target.begin(), target.end(), at + 8);
  std::copy(nonce.begin(), nonce.end(), at);
  return bytes;
}

bool Hello::Decode(const uint8_t* bytes, Hello* hello) {
  if (!std::equal(std::begin(kMagic), std::end(kMagic), bytes)) return false;
  const uint8_t* at = bytes + sizeof(kMagic);
  if (*at != static_cast<uint8_t>(Purpose::kControl) && *at != static_cast<uint8_t>(Purpose::kStream)) return false;
  hello->purpose = static_cast<Purpose>(*at);
  at += 8;
  std::copy_n(at, hello->target.size(), hello->target.begin());
  std::copy_n(at + hello->target.size(), hello->nonce.size(), hello->nonce.begin());
  return true;
}

std::array<uint8_t, Challenge::kBytes> Challenge::Encoded() const {
  std::array<uint8_t, kBytes> bytes;
  std::copy(proof.begin(), proof.end(), std::copy(nonce.begin(), nonce.end(), bytes.begin()));
  return bytes;
}

Challenge Challenge::Decoded(const uint8_t* bytes) {
  Challenge challenge;
  std::copy_n(bytes, challenge.nonce.size(), challenge.nonce.begin());
  std::copy_n(bytes + challenge.nonce.size(), challenge.proof.size(), challenge.proof.begin());
  return challenge;
}

Proof ListenerProof(const Bytes& secret, const Hello& hello, const Nonce& nonce) {
  return Mac(secret, "weightcast fabric: listener", hello.Encoded(), nonce);
}

Proof DiallerProof(const Bytes& secret, const Hello& hello, const Challenge& challenge) {
  return Mac(secret, "weightcast fabric: dialler", hello.Encoded(), challenge.Encoded());
}

bool SameProof(const Proof& one, const Proof& other) {
  uint8_t difference = 0;
  for (size_t index = 0; index < one.size(); index++) difference |= one[index] ^ other[index];
  return difference == 0;
}

}  // namespace weightcast
