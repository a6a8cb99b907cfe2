#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "fabric/authentication.h"
#include "system/bytes.h"
#include "system/event_loop.h"
#include "system/failure.h"
#include "system/unique_fd.h"

namespace weightcast {

/// Carries out the handshake of authentication.h on one new socket, either side of it, and then hands the socket on.
/// Reads not one byte more than the handshake has.
///
/// Used on its loop's thread. It keeps itself until it has called `done`, which it does exactly once unless it is
/// cancelled.
class Greeter : public std::enable_shared_from_this<Greeter> {
 public:
  struct Greeted {
    UniqueFd socket;
    Purpose purpose;
  };
  using Done = std::function<void(std::optional<Failure>, Greeted)>;

  /// `self` is the fabric of this process. Those are the credentials of both sides.
  struct Credentials {
    Bytes secret;
    FabricId self;
  };

  /// As the dialler, on a socket that may still be connecting. `peer` names it in failures.
  static std::shared_ptr<Greeter> Dial(EventLoop& loop, UniqueFd socket, const Credentials& credentials,
                                       const FabricId& target, Purpose purpose, std::string peer, Done done);
  /// As the listener, on a socket just accepted.
  static std::shared_ptr<Greeter> Answer(EventLoop& loop, UniqueFd socket, const Credentials& credentials, Done done);

  /// Closes the socket; `done` is not called any more.
  void Cancel();

 private:
  enum class Step { kConnecting, kSending, kReceivingHello, kReceivingChallenge, kReceivingProof };

  Greeter(EventLoop& loop, UniqueFd socket, const Credentials& credentials, std::string peer, Done done);
  void Begin(Step step);
  void OnReady();
  void GoOn();
  void FinishConnecting();
  /// True when all of `out_` is gone.
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

}  // namespace weightcast
