#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "fabric/control.h"
#include "fabric/exposure.h"
#include "fabric/handshake.h"
#include "fabric/threads.h"
#include "fabric/verbs/lane_setup.h"
#include "system/base.h"
#include "system/event_loop.h"

namespace weightcast {

/// Limits how many connections a fabric serves; a connection holds its slot as long as it lives. Safe among threads.
class ConnectionQuota {
 public:
  static constexpr int kCapacity = 4096;
  using Slot = std::shared_ptr<void>;
  /// Null if none is left.
  static Slot Take(const std::shared_ptr<ConnectionQuota>& quota);

 private:
  std::atomic<int> taken_{0};
};

/// Accepts connections and authenticates them: only a peer that knows the cluster's secret is passed on. A pending
/// connection gets nothing but the handshake and has five seconds for it; when too many are pending the oldest is
/// closed.
///
/// Used on its loop's thread.
class Acceptor {
 public:
  using OnAuthenticated = std::function<void(Handshake::Authenticated, bool is_local, ConnectionQuota::Slot)>;

  Acceptor(EventLoop& loop, const Handshake::Credentials& credentials, OnAuthenticated on_authenticated);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  void ListenAt(UniqueFd socket, bool is_local);

 private:
  struct Listener {
    UniqueFd socket;
    bool is_local;
    EventLoop::Handle watch;
  };
  struct PendingConnection {
    std::shared_ptr<Handshake> handshake;
    EventLoop::Handle deadline;
  };

  void Accept(Listener& listener);
  /// Accepts nothing for a tenth of a second.
  void PauseAccepting(Listener& listener);
  void Authenticate(UniqueFd socket, bool is_local, ConnectionQuota::Slot slot);

  EventLoop& loop_;
  const Handshake::Credentials& credentials_;
  const OnAuthenticated on_authenticated_;
  const std::shared_ptr<ConnectionQuota> quota_ = std::make_shared<ConnectionQuota>();
  std::list<Listener> listeners_;
  /// The oldest first.
  std::list<PendingConnection> pending_;
};

/// The source's side of a control connection: tells a reader where segments lie and when they are withdrawn. Used on
/// the control loop's thread.
class ServedPeer {
 public:
  /// `verbs` is null where there is no RDMA. `on_end` is called once when the connection has ended, and may destroy
  /// this.
  ServedPeer(EventLoop& loop, UniqueFd socket, bool is_local, ConnectionQuota::Slot slot,
             const ExposureTable& exposures, const VerbsHost* verbs, std::function<void()> on_end);
  ~ServedPeer();
  ServedPeer(const ServedPeer&) = delete;
  ServedPeer& operator=(const ServedPeer&) = delete;

  void Withdraw(const Token& token);

 private:
  void OnFrame(const FrameSocket::Frame& frame);
  void OpenLanes(const FrameSocket::Frame& frame);
  void Attach(const FrameSocket::Frame& frame);

  FrameSocket control_;
  const bool is_local_;
  const ConnectionQuota::Slot slot_;
  const ExposureTable& exposures_;
  const VerbsHost* const verbs_;
  const std::function<void()> on_end_;
  ServedLanes lanes_;
  std::map<Token, std::shared_ptr<Exposure>> attached_;
};

/// The source's side of a fabric: serves the peers that read from it. Used on the control loop's thread.
class Server {
 public:
  /// `verbs` is null where there is no RDMA.
  Server(FabricThreads& threads, const Handshake::Credentials& credentials, const ExposureTable& exposures,
         const VerbsHost* verbs);

  void ListenAt(UniqueFd socket, bool is_local) { acceptor_.ListenAt(std::move(socket), is_local); }
  /// Notifies all readers that the exposure has ended.
  void Withdraw(const Token& token);

 private:
  void Serve(Handshake::Authenticated connection, bool is_local, ConnectionQuota::Slot slot);

  FabricThreads& threads_;
  const ExposureTable& exposures_;
  const VerbsHost* const verbs_;
  std::list<std::unique_ptr<ServedPeer>> peers_;
  Acceptor acceptor_;
};

}  // namespace weightcast
