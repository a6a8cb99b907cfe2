#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "system/base.h"

namespace weightcast {

/// One thread that waits for descriptors, points in time and tasks, over epoll(7). What belongs to a loop is used on
/// its thread only and so needs no locks.
///
/// Tasks and handlers ought to end the connection that they work for themselves when something fails. A throw that
/// reaches the loop goes to `on_error`; the loop runs on, without the watch whose handler threw.
///
/// Post and Stop may be called from any thread; the rest on the loop's thread, or after Stop() by the thread that
/// stopped it.
class EventLoop {
 public:
  /// Called where the throw was caught, as CurrentFailure() gives it.
  using OnError = std::function<void(const Failure&)>;

  /// Ends what it stands for when destroyed: a watched descriptor or a timer.
  class Handle {
   public:
    Handle() = default;
    Handle(Handle&& other) noexcept { *this = std::move(other); }
    Handle& operator=(Handle&& other) noexcept {
      std::swap(loop_, other.loop_);
      std::swap(number_, other.number_);
      return *this;
    }
    ~Handle() { Reset(); }

    explicit operator bool() const { return loop_ != nullptr; }
    /// May be called from the handler that it ends.
    void Reset();

   private:
    friend class EventLoop;
    Handle(EventLoop* loop, uint64_t number) : loop_(loop), number_(number) {}

    EventLoop* loop_ = nullptr;
    uint64_t number_ = 0;
  };

  /// `name` as for StartThread.
  EventLoop(const char* name, OnError on_error);
  /// As Stop() and Clear().
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  /// Runs a task on the loop's thread; tasks run in the order given. False after Clear(): the task is dropped.
  bool Post(std::function<void()> task);
  /// Ends the thread after the handler it is in, and waits for it.
  void Stop();
  /// After Stop(): runs the remaining tasks on the calling thread. True if there were any.
  bool RunPending();
  /// After Stop(): destroys all tasks and handlers, with what they hold.
  void Clear();

  /// Calls `ready` with the epoll events as long as they last. The caller keeps the descriptor open and is its only
  /// watcher.
  Handle Watch(int descriptor, uint32_t events, std::function<void(uint32_t)> ready);
  /// Changes which events are waited for.
  void Change(const Handle& watch, uint32_t events);
  /// Calls `due` once at `time` of MonotonicMilliseconds(), or soon after.
  Handle At(double time, std::function<void()> due);

 private:
  struct Watched {
    int descriptor;
    uint32_t events;
    /// Shared, so that a handler may end its own watch.
    std::shared_ptr<std::function<void(uint32_t)>> ready;
  };
  struct Timer {
    uint64_t number;
    std::function<void()> due;
  };

  void RunThread();
  /// Calls `call`, which belongs to the watch of that number if it is not 0.
  template <class Call>
  void Guarded(uint64_t watch, Call call);
  std::vector<std::function<void()>> TakeTasks();
  void RunTasks();
  void RunTimers();
  int TimeoutMilliseconds() const;
  void Remove(uint64_t number);

  const OnError on_error_;
  UniqueFd epoll_;
  UniqueFd wake_;
  uint64_t last_number_ = 0;
  std::unordered_map<uint64_t, Watched> watched_;
  std::multimap<double, Timer> timers_;
  std::unordered_map<uint64_t, double> timer_times_;

  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;
  bool cleared_ = false;
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

}  // namespace weightcast
