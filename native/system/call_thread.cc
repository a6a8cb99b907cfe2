#include "system/call_thread.h"

#include <cassert>
#include <chrono>
#include <utility>

#include "system/native_thread.h"

namespace weightcast {

CallThread::CallThread(const char* name) {
  thread_ = StartThread(name, [state = state_] { RunThread(*state); });
}

CallThread::~CallThread() {
  bool stuck = false;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->ended = true;
    stuck = state_->running;
    state_->changed.notify_all();
  }
  if (stuck) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void CallThread::Begin(std::function<void()> call) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  assert(!state_->running);
  state_->call = std::move(call);
  state_->running = true;
  state_->changed.notify_all();
}

bool CallThread::Wait(double milliseconds) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  const std::chrono::duration<double, std::milli> limit(milliseconds);
  return state_->changed.wait_for(lock, limit, [this] { return !state_->running; });
}

void CallThread::RunThread(State& state) {
  std::unique_lock<std::mutex> lock(state.mutex);
  for (;;) {
    state.changed.wait(lock, [&state] { return state.ended || state.call; });
    if (!state.call) return;
    const std::function<void()> call = std::exchange(state.call, nullptr);
    lock.unlock();
    call();
    lock.lock();
    state.running = false;
    state.changed.notify_all();
  }
}

}  // namespace weightcast
