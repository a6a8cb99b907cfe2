#include "bridge/settler.h"

#include <utility>

#include "bridge/error.h"

namespace weightcast {

struct Settler::Channel {
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

Settler::Settler(Napi::Env env) : channel_(std::make_shared<Channel>()) {
  // No limit to the queue: every message answers a promise that is already held.
  channel_->function = Function::New(env, "weightcast", 0, 1, this);
  channel_->function.Unref(env);
}

Napi::Promise Settler::Run(Napi::Env env, const Start& start, const std::vector<Napi::Value>& kept,
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
  } catch (const Failure& failure) {
    Take(env, number).deferred.Reject(ErrorOf(env, failure).Value());
  } catch (const Napi::Error& error) {
    Take(env, number).deferred.Reject(error.Value());
  }
  return promise;
}

std::function<void()> Settler::Closer() const {
  return [channel = channel_] {
    const std::lock_guard<std::mutex> lock(channel->mutex);
    channel->closed = true;
  };
}

void Settler::OnMessage(Napi::Env env, Napi::Function, Settler* settler, Message* message) {
  const std::unique_ptr<Message> owned(message);
  // Without an environment the queue is only being emptied.
  if (env != nullptr) settler->Settle(env, *owned);
}

void Settler::Settle(Napi::Env env, const Message& message) {
  const Pending pending = Take(env, message.number);
  if (message.outcome.failure) {
    pending.deferred.Reject(ErrorOf(env, *message.outcome.failure).Value());
  } else {
    pending.deferred.Resolve(pending.to_value(env, message.outcome));
  }
}

Settler::Pending Settler::Take(Napi::Env env, uint64_t number) {
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

}  // namespace weightcast
