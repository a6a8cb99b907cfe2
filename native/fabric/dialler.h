#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fabric/endpoint.h"
#include "fabric/greeter.h"
#include "system/event_loop.h"

namespace weightcast {

/// Reaches a fabric at one of several endpoints: each is given a quarter of a second before the next is tried beside
/// it, and the first that proves to be the fabric wins. A host has addresses that lead nowhere from elsewhere, and
/// some that lead to another host.
///
/// Used on its loop's thread; keeps itself until it has called `done`, which it does exactly once unless cancelled.
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

  static std::shared_ptr<Dialler> Start(EventLoop& loop, const Greeter::Credentials& credentials, Call call, Done done);
  void Cancel();

 private:
  Dialler(EventLoop& loop, const Greeter::Credentials& credentials, Call call, Done done);
  void TryNext();
  void OnAttempt(const Endpoint& endpoint, std::optional<Failure> failure, UniqueFd socket);
  void Finish(std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint);

  EventLoop& loop_;
  const Greeter::Credentials& credentials_;
  const Call call_;
  Done done_;
  size_t next_ = 0;
  size_t failed_ = 0;
  std::string failures_;
  std::optional<Failure> worst_;
  std::vector<std::shared_ptr<Greeter>> attempts_;
  EventLoop::Handle timer_;
};

}  // namespace weightcast
