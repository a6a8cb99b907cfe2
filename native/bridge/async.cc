#include "bridge/async.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "bridge/arguments.h"

namespace weightcast {
namespace {

/// All environments of the process: the main one and those of worker threads.
struct ProcessHooks {
  std::mutex mutex;
  std::vector<std::weak_ptr<CleanupHooks>> all;
};

ProcessHooks& Process() {
  // Never destroyed, so that it is valid whenever exit(3) gets to it.
  static auto* const process = new ProcessHooks;
  return *process;
}

void RunProcessHooks() {
  std::vector<std::weak_ptr<CleanupHooks>> all;
  {
    const std::lock_guard<std::mutex> lock(Process().mutex);
    all.swap(Process().all);
  }
  for (const std::weak_ptr<CleanupHooks>& each : all) {
    if (const std::shared_ptr<CleanupHooks> cleanup_hooks = each.lock()) cleanup_hooks->RunAll();
  }
}

}  // namespace

CleanupHooks::Registration::~Registration() {
  if (!hooks_) return;
  // The function is destroyed after the lock is released.
  std::list<std::function<void()>> removed;
  const std::lock_guard<std::mutex> lock(hooks_->mutex_);
  removed.splice(removed.begin(), hooks_->hooks_, position_);
}

CleanupHooks::Registration CleanupHooks::Add(std::function<void()> hook) {
  const std::lock_guard<std::mutex> lock(mutex_);
  hooks_.push_back(std::move(hook));
  Registration registration;
  registration.hooks_ = shared_from_this();
  registration.position_ = std::prev(hooks_.end());
  return registration;
}

void CleanupHooks::RunAll() noexcept {
  // One that has been called stays in the list, as an empty function, until its registration goes.
  std::vector<std::function<void()>> calls;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls.push_back(std::exchange(before_, nullptr));
    for (auto position = hooks_.rbegin(); position != hooks_.rend(); ++position) {
      calls.push_back(std::exchange(*position, nullptr));
    }
  }
  for (const std::function<void()>& hook : calls) {
    if (hook) hook();
  }
}

void RunAtExit(const std::shared_ptr<CleanupHooks>& hooks) {
  static const int registered = std::atexit(RunProcessHooks);
  static_cast<void>(registered);
  const std::lock_guard<std::mutex> lock(Process().mutex);
  std::vector<std::weak_ptr<CleanupHooks>>& all = Process().all;
  for (auto each = all.begin(); each != all.end();) each = each->expired() ? all.erase(each) : each + 1;
  all.push_back(hooks);
}

struct PromiseTable::Channel {
  std::mutex mutex;
  bool closed = false;
  Function function;

  void Post(uint64_t number, const Outcome& outcome) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (closed) return;
    auto message = std::make_unique<Message>(Message{number, outcome});
    if (function.NonBlockingCall(message.get()) == napi_ok) static_cast<void>(message.release());
  }
};

PromiseTable::PromiseTable(Napi::Env env) : channel_(std::make_shared<Channel>()) {
  // No limit to the queue: every message answers a promise that is already held.
  channel_->function = Function::New(env, "weightcast", 0, 1, this);
  channel_->function.Unref(env);
}

Napi::Promise PromiseTable::Run(Napi::Env env, const Start& start, const std::vector<Napi::Value>& kept,
                                ToValue to_value) {
  const uint64_t number = ++last_number_;
  Pending pending{Napi::Promise::Deferred::New(env), {}, std::move(to_value)};
  for (const Napi::Value& value : kept) {
    // Something else is an argument that `start` will refuse.
    if (value.IsObject()) pending.kept.push_back(Napi::Persistent(value.As<Napi::Object>()));
  }
  const Napi::Promise promise = pending.deferred.Promise();
  if (pending_.empty()) channel_->function.Ref(env);
  pending_.emplace(number, std::move(pending));
  try {
    start([channel = channel_, number](const Outcome& outcome) { channel->Post(number, outcome); });
  } catch (...) {
    Take(env, number).deferred.Reject(CurrentError(env).Value());
  }
  return promise;
}

std::function<void()> PromiseTable::Closer() const {
  return [channel = channel_] {
    const std::lock_guard<std::mutex> lock(channel->mutex);
    channel->closed = true;
  };
}

void PromiseTable::OnMessage(Napi::Env env, Napi::Function, PromiseTable* table, Message* message) {
  const std::unique_ptr<Message> owned(message);
  // Without an environment the queue is only being emptied.
  if (env != nullptr) table->Settle(env, *owned);
}

void PromiseTable::Settle(Napi::Env env, const Message& message) {
  const Pending pending = Take(env, message.number);
  if (message.outcome.failure) return pending.deferred.Reject(ErrorOf(env, *message.outcome.failure).Value());
  try {
    pending.deferred.Resolve(pending.to_value(env, message.outcome));
  } catch (...) {
    pending.deferred.Reject(CurrentError(env).Value());
  }
}

PromiseTable::Pending PromiseTable::Take(Napi::Env env, uint64_t number) {
  const auto found = pending_.find(number);
  Pending pending = std::move(found->second);
  pending_.erase(found);
  if (pending_.empty()) channel_->function.Unref(env);
  return pending;
}

Napi::Value IntervalValue(Napi::Env env, const Outcome& outcome) {
  Napi::Object interval = Napi::Object::New(env);
  interval.Set("startedAt", outcome.interval.started_at);
  interval.Set("endedAt", outcome.interval.ended_at);
  return interval;
}

Environment::Environment(Napi::Env env) : promises_(env), hooks_(std::make_shared<CleanupHooks>(promises_.Closer())) {
  // Hooks run in reverse order, so this one runs before that of the promise table's thread-safe function: when that
  // goes, no thread of ours is left that could call it.
  napi_add_env_cleanup_hook(env, [](void* hooks) { static_cast<CleanupHooks*>(hooks)->RunAll(); }, hooks_.get());
  RunAtExit(hooks_);
}

}  // namespace weightcast
