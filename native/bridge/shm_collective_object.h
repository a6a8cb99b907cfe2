#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "collective/shm_collective.h"

namespace weightcast {

/// JavaScript's ShmCollective (NativeShmCollective in src/native-bridge/addon.ts).
class ShmCollectiveObject : public Napi::ObjectWrap<ShmCollectiveObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit ShmCollectiveObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Broadcast(const Napi::CallbackInfo& info);
  void Abort(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::unique_ptr<ShmCollective> collective_;
  Endings::Registration ending_;
};

}  // namespace weightcast
