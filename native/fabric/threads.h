#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "system/event_loop.h"

namespace weightcast {

/// The threads of a fabric: the control loop, on which connections are made, watched and talked over; data loops, which
/// move bytes; and one for what takes long.
class FabricThreads {
 public:
  /// `on_error` is called on the loop that caught the failure, or on the thread that stopped it.
  FabricThreads(unsigned data_threads, bool with_registrar, const EventLoop::OnError& on_error)
      : control("weightcast-fab", on_error) {
    if (with_registrar) registrar = std::make_unique<EventLoop>("weightcast-reg", on_error);
    while (data_loops_.size() < data_threads) {
      data_loops_.push_back(std::make_unique<EventLoop>("weightcast-move", on_error));
    }
  }

  EventLoop control;
  /// Registers memory with RDMA devices; null where there are none.
  std::unique_ptr<EventLoop> registrar;

  /// Each in turn. Called on the control loop.
  EventLoop& NextDataLoop() { return *data_loops_[next_++ % data_loops_.size()]; }

  /// Ends all threads; what belonged to them then belongs to the calling thread alone.
  void Stop() {
    control.Stop();
    if (registrar) registrar->Stop();
    for (const auto& loop : data_loops_) loop->Stop();
  }
  /// After Stop(): runs the remaining tasks, and those that they post.
  void RunPending() {
    for (bool any = true; any;) {
      any = control.RunPending();
      any = (registrar && registrar->RunPending()) || any;
      for (const auto& loop : data_loops_) any = loop->RunPending() || any;
    }
  }
  void Clear() {
    control.Clear();
    if (registrar) registrar->Clear();
    for (const auto& loop : data_loops_) loop->Clear();
  }

 private:
  std::vector<std::unique_ptr<EventLoop>> data_loops_;
  size_t next_ = 0;
};

}  // namespace weightcast
