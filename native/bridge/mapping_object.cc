#include "bridge/mapping_object.h"

#include <cstring>

#include "bridge/arguments.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "system/byte_size.h"
#include "system/failure.h"

namespace weightcast {
namespace {

constexpr napi_type_tag kTypeTag = {0x5a1c6e0d8f3b4e27, 0x9d42b7c1f06e4a83};
constexpr uint64_t kLargestRead = uint64_t{64} << 20;

Napi::Value Wrap(Napi::Env env, std::shared_ptr<Mapping> mapping) {
  // The constructor takes the pointer over from here.
  return Environment::Of(env).mapping_class.New({Napi::External<std::shared_ptr<Mapping>>::New(env, &mapping)});
}

using Maker = std::shared_ptr<Mapping> (*)(const std::string& path, uint64_t bytes, int numa_node);

Napi::Value MakeFile(const Napi::CallbackInfo& info, Maker make) {
  return Guarded(info.Env(), [&] {
    const std::string path = TextArgument(info[0], "path");
    const uint64_t bytes = WholeArgument(info[1], "bytes");
    const int numa_node = info[2].IsNumber() ? info[2].As<Napi::Number>().Int32Value() : -1;
    return Wrap(info.Env(), make(path, bytes, numa_node));
  });
}

}  // namespace

Napi::Function MappingObject::Define(Napi::Env env) {
  return DefineClass(env, "Mapping",
                     {
                         StaticMethod<&MappingObject::Create>("create"),
                         StaticMethod<&MappingObject::CreateEmpty>("createEmpty"),
                         StaticMethod<&MappingObject::OpenFile>("open"),
                         InstanceAccessor<&MappingObject::Path>("path"),
                         InstanceAccessor<&MappingObject::Bytes>("bytes"),
                         InstanceMethod<&MappingObject::Read>("read"),
                         InstanceMethod<&MappingObject::Write>("write"),
                         InstanceMethod<&MappingObject::Close>("close"),
                         InstanceMethod<&MappingObject::Unlink>("unlink"),
                     });
}

MappingObject::MappingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappingObject>(info) {
  if (!info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "a Mapping is made by Mapping.create or Mapping.open");
  }
  mapping_ = *info[0].As<Napi::External<std::shared_ptr<Mapping>>>().Data();
  last_ = mapping_;
  path_ = mapping_->path();
  file_ = mapping_->file();
  bytes_ = static_cast<double>(mapping_->bytes());
  info.This().As<Napi::Object>().TypeTag(&kTypeTag);
}

const MappingObject* MappingObject::From(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTypeTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>());
}

const std::shared_ptr<Mapping>& MappingObject::Open() const {
  if (!mapping_) throw Failure(code::kClosed, "the mapping of " + path_ + " is closed");
  return mapping_;
}

Napi::Value MappingObject::Create(const Napi::CallbackInfo& info) {
  return MakeFile(info, Mapping::Create);
}

Napi::Value MappingObject::CreateEmpty(const Napi::CallbackInfo& info) {
  return MakeFile(info, Mapping::CreateEmpty);
}

Napi::Value MappingObject::OpenFile(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const std::string path = TextArgument(info[0], "path");
    return Wrap(info.Env(), Mapping::Open(path, FlagArgument(info[1], "writable")));
  });
}

Napi::Value MappingObject::Path(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), path_); }

Napi::Value MappingObject::Bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), bytes_); }

Napi::Value MappingObject::Read(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return ReadMapping(info, *Open()); });
}

void MappingObject::Write(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { WriteMapping(info, *Open()); });
}

void MappingObject::Close(const Napi::CallbackInfo&) { mapping_.reset(); }

void MappingObject::Unlink(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { UnlinkFile(path_, file_); });
}

Napi::Value ReadMapping(const Napi::CallbackInfo& info, const Mapping& mapping) {
  const uint64_t offset = WholeArgument(info[0], "offset");
  const uint64_t bytes = WholeArgument(info[1], "bytes");
  if (bytes > kLargestRead) {
    throw Failure(code::kOutOfRange, "read copies at most " + ByteSize(kLargestRead) + ", not " +
                                         std::to_string(bytes) + " bytes");
  }
  mapping.CheckRange(offset, bytes);
  return Napi::Buffer<uint8_t>::Copy(info.Env(), mapping.data() + offset, bytes);
}

void WriteMapping(const Napi::CallbackInfo& info, const Mapping& mapping) {
  const uint64_t offset = WholeArgument(info[0], "offset");
  const Napi::Uint8Array data = BytesArgument(info[1], "data");
  mapping.CheckWritable();
  mapping.CheckRange(offset, data.ByteLength());
  if (data.ByteLength() > 0) std::memcpy(mapping.data() + offset, data.Data(), data.ByteLength());
}

}  // namespace weightcast
