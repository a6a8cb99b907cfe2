#pragma once

#include <napi.h>

#include <memory>
#include <string>

#include "device/host_device.h"

namespace weightcast {

/// JavaScript's DeviceBuffer (NativeDeviceBuffer in src/native-bridge/addon.ts). An object that is collected without
/// having been freed gives its memory back.
class DeviceBufferObject : public Napi::ObjectWrap<DeviceBufferObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  /// A new object for an allocation of the HostDevice object `device`, which lives as long.
  static Napi::Value Wrap(const Napi::Object& device, std::shared_ptr<DeviceAllocation> allocation);
  explicit DeviceBufferObject(const Napi::CallbackInfo& info);

  /// The object behind a value; null if it is something else.
  static const DeviceBufferObject* From(const Napi::Value& value);
  /// Throws CLOSED once the memory is freed or its device closed.
  const std::shared_ptr<Mapping>& Open() const;

 private:
  Napi::Value Path(const Napi::CallbackInfo& info);
  Napi::Value Bytes(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  void Write(const Napi::CallbackInfo& info);
  /// free(); also what close() and unlink() of a Mapping amount to here.
  void Free(const Napi::CallbackInfo& info);

  std::shared_ptr<DeviceAllocation> allocation_;
  /// Gives all memory back when the process ends, which it cannot once it is collected.
  Napi::ObjectReference device_;
  std::string path_;
  double bytes_ = 0;
};

}  // namespace weightcast
