#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace weightcast {

/// Starts a thread with all signals blocked, so that they go to Node's threads and no system call here is interrupted.
/// `name` shows in top and gdb; at most 15 characters.
std::thread StartThread(const char* name, std::function<void()> body);

/// A thread for calls into a library that may never return. The owner waits for a call only as long as it wants to and
/// can abandon a thread that is stuck in one. A call may therefore outlive the owner: give it shared pointers to all it
/// uses. Used from one thread at a time.
class CallThread {
 public:
  /// `name` as for StartThread.
  explicit CallThread(const char* name);
  /// Joins the thread, or detaches it if its call has not returned.
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

/// How long to sleep between two polls of something that sends no notification: little at first, since most things are
/// quick, then longer.
class Backoff {
 public:
  explicit Backoff(double most_milliseconds) : most_(most_milliseconds) {}

  /// Milliseconds.
  double Next() {
    const double sleep = next_;
    next_ = std::min(next_ * kGrowth, most_);
    return sleep;
  }
  void Reset() { next_ = kLeast; }

 private:
  static constexpr double kLeast = 0.02;
  static constexpr double kGrowth = 1.5;

  const double most_;
  double next_ = kLeast;
};

}  // namespace weightcast
