#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// JavaScript's ThreadPool (NativeThreadPool in src/native-bridge/addon.ts).
class ThreadPoolObject : public Napi::ObjectWrap<ThreadPoolObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit ThreadPoolObject(const Napi::CallbackInfo& info);

  /// The pool behind a value; null if it is something else.
  static std::shared_ptr<ThreadPool> From(const Napi::Value& value);

 private:
  Napi::Value Threads(const Napi::CallbackInfo& info);
  Napi::Value Copy(const Napi::CallbackInfo& info);
  Napi::Value CopyIn(const Napi::CallbackInfo& info);
  Napi::Value Load(const Napi::CallbackInfo& info);
  Napi::Value Reserve(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);
  Napi::Value Digest(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::shared_ptr<ThreadPool> pool_;
  Endings::Registration ending_;
};

}  // namespace weightcast
