#include "system/threads.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cassert>
#include <chrono>
#include <utility>

namespace weightcast {

std::thread StartThread(const char* name, std::function<void()> body) {
  sigset_t blocked;
  sigset_t before;
  sigfillset(&blocked);
  // Faults are sent to the thread that made them and kill the process when blocked.
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&blocked, fault);
  // A thread inherits the mask it is started under.
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  std::thread thread;
  try {
    thread = std::thread([body = std::move(body)] {
      // Sleeps of microseconds are to take no longer; by default the kernel adds 50 to each.
      prctl(PR_SET_TIMERSLACK, 1UL);
      body();
    });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

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
