#include "bridge/cuda_buffer_object.h"

#include <string>

#include "bridge/arguments.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "system/failure.h"

namespace weightcast {
namespace {

constexpr napi_type_tag kTypeTag = {0x7c02b94e61d84fd3, 0x8e5f30a7c9164b2d};

}  // namespace

Napi::Function CudaBufferObject::Define(Napi::Env env) {
  return DefineClass(env, "CudaBuffer",
                     {
                         InstanceAccessor<&CudaBufferObject::Bytes>("bytes"),
                         InstanceAccessor<&CudaBufferObject::Handle>("ipcHandle"),
                         InstanceMethod<&CudaBufferObject::Free>("free"),
                     });
}

Napi::Value CudaBufferObject::Wrap(const Napi::Object& device, std::shared_ptr<cuda::CudaMemory> memory) {
  const Napi::Env env = device.Env();
  // The constructor takes the pointer over from here.
  const auto external = Napi::External<std::shared_ptr<cuda::CudaMemory>>::New(env, &memory);
  return Environment::Of(env).cuda_buffer_class.New({external, device});
}

CudaBufferObject::CudaBufferObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CudaBufferObject>(info) {
  if (!info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "a CudaBuffer is made by CudaDevice.allocate or CudaDevice.open");
  }
  memory_ = *info[0].As<Napi::External<std::shared_ptr<cuda::CudaMemory>>>().Data();
  device_ = Napi::Persistent(info[1].As<Napi::Object>());
  bytes_ = static_cast<double>(memory_->block()->bytes());
  info.This().As<Napi::Object>().TypeTag(&kTypeTag);
}

std::shared_ptr<const cuda::DeviceBlock> CudaBufferObject::BlockArgument(const Napi::Value& value, const char* name) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTypeTag)) {
    ThrowArgumentType(value.Env(), name, "a CudaBuffer");
  }
  const CudaBufferObject* const buffer = Unwrap(value.As<Napi::Object>());
  if (!buffer->memory_->block()) throw Failure(code::kClosed, std::string(name) + " is device memory that is freed");
  return buffer->memory_->block();
}

Napi::Value CudaBufferObject::Bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), bytes_); }

Napi::Value CudaBufferObject::Handle(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    if (!handle_) handle_ = BlockArgument(info.This(), "the buffer")->Handle();
    return Napi::Buffer<uint8_t>::Copy(info.Env(), handle_->bytes, sizeof(handle_->bytes));
  });
}

void CudaBufferObject::Free(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { memory_->Free(); });
}

}  // namespace weightcast
