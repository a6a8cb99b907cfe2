#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fabric/address.h"
#include "fabric/handshake.h"
#include "fabric/peer.h"
#include "fabric/threads.h"
#include "fabric/verbs/lane_setup.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// Which way bytes are to come; kAny is the fastest that this pair of processes has.
enum class Way { kAny, kShm, kVerbs, kTcp };

/// What all connections of a fabric start from.
struct ConnectContext {
  std::shared_ptr<FabricThreads> threads;
  Handshake::Credentials credentials;
  std::shared_ptr<ThreadPool> pool;
  /// Over TCP, to one peer.
  unsigned streams;
  /// Null where there is no RDMA.
  std::shared_ptr<VerbsHost> verbs;
};

/// Connects to one peer: over the Unix socket if that answers, which it does on the same host only; else over TCP,
/// where bytes come by RDMA if both have it and it works, and otherwise by streams.
/// Used on the control loop's thread. It owns itself until it has called `done`, which it does exactly once.
class Connector : public std::enable_shared_from_this<Connector> {
 public:
  struct Call {
    FabricAddress address;
    /// What the peer is called in failures.
    std::string name;
    Way way = Way::kAny;
    double timeout_milliseconds = 0;
  };
  using Done = std::function<void(std::optional<Failure>, std::shared_ptr<Peer>)>;

  static std::shared_ptr<Connector> Start(const ConnectContext& context, Call call, Done done);
  /// Ends the attempt; does nothing once `done` was called.
  void Fail(const Failure& failure);
  void Cancel();

 private:
  using Then = void (Connector::*)(std::optional<Failure>, UniqueFd, const Endpoint&);

  Connector(const ConnectContext& context, Call call, Done done);
  void Begin();
  /// Runs a step; what it throws is the end of the attempt.
  template <class Step>
  void Guarded(Step step);
  void Dial(Purpose purpose, std::vector<Endpoint> endpoints, Then then);
  void DialHost();
  void OnLocal(std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint);
  void OnControl(std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint);
  void SetUpLanes();
  void OnLanes(std::optional<Failure> failure, std::vector<VerbsLane> lanes);
  /// `why` there is no RDMA.
  void TakeTcp(std::string why);
  void DialStreams();
  void OnStream(std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint);
  void FinishTcp();
  /// Has the peer lost when what carries its bytes says so.
  LaneSet::OnLost LossOf(std::shared_ptr<std::weak_ptr<Peer>> peer) const;
  void Finish(std::optional<Failure> failure, std::shared_ptr<Peer> peer);

  const ConnectContext& context_;
  const Call call_;
  Done done_;
  EventLoop::Handle deadline_;
  std::vector<std::shared_ptr<Dialler>> diallers_;
  std::unique_ptr<FrameSocket> control_;
  std::shared_ptr<LaneSetup> lane_setup_;
  /// Where the control connection was made.
  std::optional<Endpoint> endpoint_;
  std::vector<UniqueFd> streams_;
  /// Why bytes do not come over RDMA; empty where that was not tried.
  std::string why_not_rdma_;
};

}  // namespace weightcast
