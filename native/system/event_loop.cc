#include "system/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>

#include "system/base.h"
#include "system/threads.h"

namespace weightcast {
namespace {

constexpr int kEventsAtOnce = 64;
/// Of the descriptor that ends a wait; handles are numbered from 1.
constexpr uint64_t kWake = 0;

}  // namespace

void EventLoop::Handle::Reset() {
  if (EventLoop* const loop = std::exchange(loop_, nullptr)) loop->Remove(number_);
}

EventLoop::EventLoop(const char* name, OnError on_error)
    : on_error_(std::move(on_error)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!epoll_ || !wake_) throw Failure::System(errno, "cannot make an event loop");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWake;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    throw Failure::System(errno, "cannot make an event loop");
  }
  thread_ = StartThread(name, [this] { RunThread(); });
}

EventLoop::~EventLoop() {
  Stop();
  Clear();
}

bool EventLoop::Post(std::function<void()> task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (cleared_) return false;
    tasks_.push_back(std::move(task));
    if (tasks_.size() > 1) return true;
  }
  eventfd_write(wake_.get(), 1);
  return true;
}

void EventLoop::Stop() {
  stopped_ = true;
  eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

bool EventLoop::RunPending() {
  const std::vector<std::function<void()>> tasks = TakeTasks();
  for (const std::function<void()>& task : tasks) Guarded(0, task);
  return !tasks.empty();
}

void EventLoop::Clear() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    cleared_ = true;
  }
  // What is destroyed may reset its handles and post; so nothing is destroyed in place.
  for (;;) {
    const auto watched = std::exchange(watched_, {});
    const auto timers = std::exchange(timers_, {});
    timer_times_.clear();
    const auto tasks = TakeTasks();
    if (watched.empty() && timers.empty() && tasks.empty()) return;
  }
}

EventLoop::Handle EventLoop::Watch(int descriptor, uint32_t events, std::function<void(uint32_t)> ready) {
  const uint64_t number = ++last_number_;
  epoll_event event{};
  event.events = events;
  event.data.u64 = number;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event) != 0) {
    throw Failure::System(errno, "cannot watch a descriptor");
  }
  watched_[number] = {descriptor, events, std::make_shared<std::function<void(uint32_t)>>(std::move(ready))};
  return Handle(this, number);
}

void EventLoop::Change(const Handle& watch, uint32_t events) {
  const auto found = watched_.find(watch.number_);
  if (found == watched_.end() || found->second.events == events) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = watch.number_;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second.descriptor, &event) != 0) {
    throw Failure::System(errno, "cannot watch a descriptor");
  }
  found->second.events = events;
}

EventLoop::Handle EventLoop::At(double time, std::function<void()> due) {
  const uint64_t number = ++last_number_;
  timers_.emplace(time, Timer{number, std::move(due)});
  timer_times_[number] = time;
  return Handle(this, number);
}

void EventLoop::Remove(uint64_t number) {
  if (const auto found = watched_.find(number); found != watched_.end()) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.descriptor, nullptr);
    // Destroyed after the table is in order again.
    const Watched removed = std::move(found->second);
    watched_.erase(found);
    return;
  }
  const auto time = timer_times_.find(number);
  if (time == timer_times_.end()) return;
  const auto [begin, end] = timers_.equal_range(time->second);
  const auto timer = std::find_if(begin, end, [&](const auto& each) { return each.second.number == number; });
  timer_times_.erase(time);
  const Timer removed = std::move(timer->second);
  timers_.erase(timer);
}

template <class Call>
void EventLoop::Guarded(uint64_t watch, Call call) {
  try {
    call();
  } catch (...) {
    const Failure failure = CurrentFailure();
    // It would be called again at once, and throw again.
    if (watch != 0) Remove(watch);
    on_error_(failure);
  }
}

void EventLoop::RunThread() {
  epoll_event events[kEventsAtOnce];
  while (!stopped_) {
    const int count = epoll_wait(epoll_.get(), events, kEventsAtOnce, TimeoutMilliseconds());
    for (int index = 0; index < count && !stopped_; index++) {
      const uint64_t number = events[index].data.u64;
      if (number == kWake) continue;
      // An earlier handler may have ended this watch.
      const auto found = watched_.find(number);
      if (found == watched_.end()) continue;
      const auto ready = found->second.ready;
      Guarded(number, [&] { (*ready)(events[index].events); });
    }
    RunTimers();
    RunTasks();
  }
}

void EventLoop::RunTasks() {
  eventfd_t count;
  eventfd_read(wake_.get(), &count);
  std::vector<std::function<void()>> tasks = TakeTasks();
  for (std::function<void()>& task : tasks) {
    Guarded(0, task);
    task = nullptr;
  }
}

std::vector<std::function<void()>> EventLoop::TakeTasks() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(tasks_, {});
}

void EventLoop::RunTimers() {
  while (!stopped_ && !timers_.empty() && timers_.begin()->first <= MonotonicMilliseconds()) {
    const auto first = timers_.begin();
    const Timer timer = std::move(first->second);
    timer_times_.erase(timer.number);
    timers_.erase(first);
    Guarded(0, timer.due);
  }
}

int EventLoop::TimeoutMilliseconds() const {
  if (timers_.empty()) return -1;
  const double left = timers_.begin()->first - MonotonicMilliseconds();
  return static_cast<int>(std::clamp(std::ceil(left), 0.0, 3.6e6));
}

}  // namespace weightcast
