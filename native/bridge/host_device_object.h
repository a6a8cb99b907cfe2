#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "device/host_device.h"

namespace weightcast {

/// JavaScript's HostDevice (NativeHostDevice in src/native-bridge/addon.ts).
class HostDeviceObject : public Napi::ObjectWrap<HostDeviceObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit HostDeviceObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Directory(const Napi::CallbackInfo& info);
  Napi::Value Memory(const Napi::CallbackInfo& info);
  Napi::Value Allocate(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::shared_ptr<HostDevice> device_;
  Endings::Registration ending_;
};

}  // namespace weightcast
