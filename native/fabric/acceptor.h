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

/// Counts the connections that a fabric serves; a connection holds its place as long as it lives. Safe among threads.
class Places {
 public:
  static constexpr int kCapacity = 4096;
  using Place = std::shared_ptr<void>;
  /// Null if there is none left.
  static Place Take(const std::shared_ptr<Places>& places);

 private:
  std::atomic<int> taken_{0};
};

/// Accepts connections and lets in who knows the cluster's secret. A stranger gets nothing but the handshake, and not
/// long for that: of those still in it the oldest goes when there are too many.
///
/// Used on its loop's thread.
class Reception {
 public:
  using OnGuest = std::function<void(Greeter::Greeted, bool is_local, Places::Place)>;

  Reception(EventLoop& loop, const Greeter::Credentials& credentials, OnGuest on_guest);
  ~Reception();
  Reception(const Reception&) = delete;
  Reception& operator=(const Reception&) = delete;

  void ListenAt(UniqueFd socket, bool is_local);

 private:
  struct Door {
    UniqueFd socket;
    bool is_local;
    EventLoop::Handle watch;
  };
  struct Stranger {
    std::shared_ptr<Greeter> greeter;
    EventLoop::Handle deadline;
  };

  void Accept(Door& door);
  /// Accepts nothing for a while.
  void Rest(Door& door);
  void Greet(UniqueFd socket, bool is_local, Places::Place place);

  EventLoop& loop_;
  const Greeter::Credentials& credentials_;
  const OnGuest on_guest_;
  const std::shared_ptr<Places> places_ = std::make_shared<Places>();
  std::list<Door> doors_;
  /// The oldest first.
  std::list<Stranger> strangers_;
};

/// The source's side of a control connection: tells a reader where segments lie, and when they are withdrawn. Used on
/// the control loop's thread.
class ServedPeer {
 public:
  /// `verbs` is null where there is no RDMA. `on_end` is called once when the connection has ended, and may destroy
  /// this.
  ServedPeer(EventLoop& loop, UniqueFd socket, bool is_local, Places::Place place, const ExposureTable& exposures,
             const VerbsHost* verbs, std::function<void()> on_end);
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
  const Places::Place place_;
  const ExposureTable& exposures_;
  const VerbsHost* const verbs_;
  const std::function<void()> on_end_;
  ServedLanes lanes_;
  std::map<Token, std::shared_ptr<Exposure>> attached_;
};

/// All that a fabric does for those who read from it. Used on the control loop's thread.
class Service {
 public:
  /// `verbs` is null where there is no RDMA.
  Service(Loops& loops, const Greeter::Credentials& credentials, const ExposureTable& exposures,
          const VerbsHost* verbs);

  void ListenAt(UniqueFd socket, bool is_local) { reception_.ListenAt(std::move(socket), is_local); }
  /// Tells all readers that it is not to be read any more.
  void Withdraw(const Token& token);

 private:
  void Admit(Greeter::Greeted guest, bool is_local, Places::Place place);

  Loops& loops_;
  const ExposureTable& exposures_;
  const VerbsHost* const verbs_;
  std::list<std::unique_ptr<ServedPeer>> peers_;
  Reception reception_;
};

}  // namespace weightcast
