#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "collective/nccl_collective.h"

namespace weightcast {

/// JavaScript's NcclCollective (NativeNcclCollective in src/native-bridge/addon.ts).
class NcclCollectiveObject : public Napi::ObjectWrap<NcclCollectiveObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit NcclCollectiveObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value Broadcast(const Napi::CallbackInfo& info);
  void Abort(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::unique_ptr<NcclCollective> collective_;
  Endings::Registration ending_;
};

/// { version, allowsSharedDevices }
Napi::Value ProbeNcclValue(const Napi::CallbackInfo& info);
/// A new id, as 128 bytes.
Napi::Value NcclUniqueIdValue(const Napi::CallbackInfo& info);

}  // namespace weightcast
