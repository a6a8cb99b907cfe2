#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fabric/address.h"
#include "system/base.h"
#include "system/event_loop.h"

namespace weightcast {

using Nonce = std::array<uint8_t, 32>;
/// HMAC-SHA-256.
using Proof = std::array<uint8_t, 32>;

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

/// Carries out the handshake on one new socket, either side of it, and then hands the socket on.
/// Reads not one byte beyond it.
///
/// Used on its loop's thread. It owns itself until it has called `done`, which it does exactly once unless it is
/// cancelled.
class Handshake : public std::enable_shared_from_this<Handshake> {
 public:
  struct Authenticated {
    UniqueFd socket;
    Purpose purpose;
  };
  using Done = std::function<void(std::optional<Failure>, Authenticated)>;

  /// `self` is the fabric of this process. Those are the credentials of both sides.
  struct Credentials {
    Bytes secret;
    FabricId self;
  };

  /// As the dialler, on a socket that may still be connecting. `peer` names it in failures.
  static std::shared_ptr<Handshake> Dial(EventLoop& loop, UniqueFd socket, const Credentials& credentials,
                                         const FabricId& target, Purpose purpose, std::string peer, Done done);
  /// As the listener, on a socket just accepted.
  static std::shared_ptr<Handshake> Answer(EventLoop& loop, UniqueFd socket, const Credentials& credentials, Done done);

  /// Closes the socket; `done` is not called any more.
  void Cancel();

 private:
  enum class Step { kConnecting, kSending, kReceivingHello, kReceivingChallenge, kReceivingProof };

  Handshake(EventLoop& loop, UniqueFd socket, const Credentials& credentials, std::string peer, Done done);
  void Begin(Step step);
  void OnReady();
  void Advance();
  void FinishConnecting();
  /// True when all of `out_` is sent.
  bool Send();
  /// True when `count` bytes are in `in_`.
  bool Receive(size_t count);
  void AnswerHello();
  void AnswerChallenge();
  void CheckProof();
  void Finish(std::optional<Failure> failure);

  EventLoop& loop_;
  UniqueFd socket_;
  const Credentials& credentials_;
  const std::string peer_;
  Done done_;
  EventLoop::Handle watch_;

  Step step_ = Step::kConnecting;
  Step after_sending_ = Step::kReceivingChallenge;
  bool finished_after_sending_ = false;
  Hello hello_{};
  Challenge challenge_{};
  Bytes out_;
  Bytes in_;
};

/// Connects to a fabric at one of several endpoints, in the manner of "happy eyeballs": each has a quarter of a second
/// before the next is tried beside it, and the first that proves to be the fabric wins. Some of a host's addresses lead
/// nowhere from elsewhere, or to another host.
///
/// Used on its loop's thread; owns itself until it has called `done`, which it does exactly once unless cancelled.
class Dialler : public std::enable_shared_from_this<Dialler> {
 public:
  /// `endpoint` is the one that answered.
  using Done = std::function<void(std::optional<Failure>, UniqueFd, const Endpoint& endpoint)>;

  struct Call {
    FabricId target;
    Purpose purpose;
    std::vector<Endpoint> endpoints;
    /// What the peer is called in failures.
    std::string peer;
  };

  static std::shared_ptr<Dialler> Start(EventLoop& loop, const Handshake::Credentials& credentials, Call call,
                                        Done done);
  void Cancel();

 private:
  Dialler(EventLoop& loop, const Handshake::Credentials& credentials, Call call, Done done);
  void TryNext();
  void OnAttempt(const Endpoint& endpoint, std::optional<Failure> failure, UniqueFd socket);
  void Finish(std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint);

  EventLoop& loop_;
  const Handshake::Credentials& credentials_;
  const Call call_;
  Done done_;
  size_t next_ = 0;
  size_t failed_ = 0;
  std::string failures_;
  std::optional<Failure> worst_;
  std::vector<std::shared_ptr<Handshake>> attempts_;
  EventLoop::Handle timer_;
};

}  // namespace weightcast
