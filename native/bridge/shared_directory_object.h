#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "memory/shared_directory.h"

namespace weightcast {

/// JavaScript's SharedDirectory (NativeSharedDirectory in src/native-bridge/addon.ts).
class SharedDirectoryObject : public Napi::ObjectWrap<SharedDirectoryObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit SharedDirectoryObject(const Napi::CallbackInfo& info);

 private:
  static Napi::Value RemoveIfAbandoned(const Napi::CallbackInfo& info);

  Napi::Value Path(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::unique_ptr<SharedDirectory> directory_;
  Endings::Registration ending_;
};

}  // namespace weightcast
