#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "fabric/greeter.h"
#include "system/event_loop.h"
#include "system/unique_fd.h"

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

}  // namespace weightcast
