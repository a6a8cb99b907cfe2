#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "system/event_loop.h"

namespace weightcast {

/// The threads of a fabric: one on which connections are made, watched and talked over, those that move bytes, and one
/// for what takes long.
class Loops {
 public:
  Loops(unsigned movers, bool with_registrar) : control("weightcast-fab") {
    if (with_registrar) registrar = std::make_unique<EventLoop>("weightcast-reg");
    while (movers_.size() < movers) movers_.push_back(std::make_unique<EventLoop>("weightcast-move"));
  }

  EventLoop control;
  /// Registers memory with RDMA devices; null where there are none.
  std::unique_ptr<EventLoop> registrar;

  /// Each in turn. Called on the control loop.
  EventLoop& NextMover() { return *movers_[next_++ % movers_.size()]; }

  /// Ends all threads; the calling thread is then alone with what belonged to them.
  void Stop() {
    control.Stop();
    if (registrar) registrar->Stop();
    for (const auto& mover : movers_) mover->Stop();
  }
  void RunRest() {
    for (bool any = true; any;) {
      any = control.RunRest();
      any = (registrar && registrar->RunRest()) || any;
      for (const auto& mover : movers_) any = mover->RunRest() || any;
    }
  }
  void Clear() {
    control.Clear();
    if (registrar) registrar->Clear();
    for (const auto& mover : movers_) mover->Clear();
  }

 private:
  std::vector<std::unique_ptr<EventLoop>> movers_;
  size_t next_ = 0;
};

}  // namespace weightcast
