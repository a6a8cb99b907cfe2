#include "bridge/host_device_object.h"

#include "bridge/arguments.h"
#include "bridge/device_buffer_object.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "bridge/values.h"

namespace weightcast {

Napi::Function HostDeviceObject::Define(Napi::Env env) {
  return DefineClass(env, "HostDevice",
                     {
                         InstanceAccessor<&HostDeviceObject::Directory>("directory"),
                         InstanceMethod<&HostDeviceObject::Memory>("memory"),
                         InstanceMethod<&HostDeviceObject::Allocate>("allocate"),
                         InstanceMethod<&HostDeviceObject::Close>("close"),
                     });
}

HostDeviceObject::HostDeviceObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<HostDeviceObject>(info) {
  Guarded(info.Env(), [&] {
    const std::string directory = TextArgument(info[0], "directory");
    device_ = std::make_shared<HostDevice>(directory, WholeArgument(info[1], "capacity"));
  });
  ending_ = Environment::Of(info.Env()).endings().Add([device = device_] { device->Close(); });
}

Napi::Value HostDeviceObject::Directory(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device_->directory());
}

Napi::Value HostDeviceObject::Memory(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    return MemoryValue(info.Env(), device_->Measure());
  });
}

Napi::Value HostDeviceObject::Allocate(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const uint64_t bytes = WholeArgument(info[0], "bytes");
    return DeviceBufferObject::Wrap(info.This().As<Napi::Object>(), device_->Allocate(bytes));
  });
}

void HostDeviceObject::Close(const Napi::CallbackInfo&) { device_->Close(); }

}  // namespace weightcast
