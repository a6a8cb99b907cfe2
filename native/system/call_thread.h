#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace weightcast {

/// A thread for calls into a library that may never return. Its owner waits for a call as long as it wants to, and
/// can leave a thread behind that is stuck in one. Everything a call uses must outlive the owner for that reason: give
/// it shared pointers. Used from one thread at a time.
class CallThread {
 public:
  /// `name` as for StartThread.
  explicit CallThread(const char* name);
  /// Joins the thread; lets it go if its call has not returned.
  ~CallThread();
  CallThread(const CallThread&) = delete;
  CallThread& operator=(const CallThread&) = delete;

  /// Starts a call, which must not throw. The call before it must have returned.
  void Begin(std::function<void()> call);
  /// Waits until the call has returned, but not longer than `milliseconds`. True if it has, or if there is none.
  bool Wait(double milliseconds);

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    /// Empty while there is none to make.
    std::function<void()> call;
    bool running = false;
    bool ended = false;
  };

  static void RunThread(State& state);

  const std::shared_ptr<State> state_ = std::make_shared<State>();
  std::thread thread_;
};

}  // namespace weightcast
