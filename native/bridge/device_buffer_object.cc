#include "bridge/device_buffer_object.h"

#include "bridge/environment.h"
#include "bridge/error.h"
#include "bridge/mapping_object.h"
#include "system/failure.h"

namespace weightcast {
namespace {

constexpr napi_type_tag kTypeTag = {0x1e97d35bc8624f0a, 0xb3068de45a1f4c79};

}  // namespace

Napi::Function DeviceBufferObject::Define(Napi::Env env) {
  return DefineClass(env, "DeviceBuffer",
                     {
                         InstanceAccessor<&DeviceBufferObject::Path>("path"),
                         InstanceAccessor<&DeviceBufferObject::Bytes>("bytes"),
                         InstanceMethod<&DeviceBufferObject::Read>("read"),
                         InstanceMethod<&DeviceBufferObject::Write>("write"),
                         InstanceMethod<&DeviceBufferObject::Free>("free"),
                         InstanceMethod<&DeviceBufferObject::Free>("close"),
                         InstanceMethod<&DeviceBufferObject::Free>("unlink"),
                     });
}

Napi::Value DeviceBufferObject::Wrap(const Napi::Object& device, std::shared_ptr<DeviceAllocation> allocation) {
  const Napi::Env env = device.Env();
  // The constructor takes the pointer over from here.
  const auto external = Napi::External<std::shared_ptr<DeviceAllocation>>::New(env, &allocation);
  return Environment::Of(env).device_buffer_class.New({external, device});
}

DeviceBufferObject::DeviceBufferObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<DeviceBufferObject>(info) {
  if (!info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "a DeviceBuffer is made by HostDevice.allocate");
  }
  allocation_ = *info[0].As<Napi::External<std::shared_ptr<DeviceAllocation>>>().Data();
  device_ = Napi::Persistent(info[1].As<Napi::Object>());
  path_ = allocation_->mapping()->path();
  bytes_ = static_cast<double>(allocation_->mapping()->bytes());
  info.This().As<Napi::Object>().TypeTag(&kTypeTag);
}

const DeviceBufferObject* DeviceBufferObject::From(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTypeTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>());
}

const std::shared_ptr<Mapping>& DeviceBufferObject::Open() const {
  if (!allocation_->mapping()) throw Failure(code::kClosed, "the device memory " + path_ + " is freed");
  return allocation_->mapping();
}

Napi::Value DeviceBufferObject::Path(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), path_);
}

Napi::Value DeviceBufferObject::Bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), bytes_);
}

Napi::Value DeviceBufferObject::Read(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return ReadMapping(info, *Open()); });
}

void DeviceBufferObject::Write(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { WriteMapping(info, *Open()); });
}

void DeviceBufferObject::Free(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { allocation_->Free(); });
}

}  // namespace weightcast
