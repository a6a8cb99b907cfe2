#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "bridge/arguments.h"
#include "bridge/async.h"
#include "bridge/objects.h"
#include "system/base.h"

namespace weightcast {
namespace {

constexpr napi_type_tag kDeviceBufferTag = {0x1e97d35bc8624f0a, 0xb3068de45a1f4c79};
constexpr napi_type_tag kCudaDeviceTag = {0x35f1d8207ab94c6e, 0x9d42e6c18b7f053a};
constexpr napi_type_tag kCudaBufferTag = {0x7c02b94e61d84fd3, 0x8e5f30a7c9164b2d};

}  // namespace

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
  cleanup_ = Environment::Of(info.Env()).cleanup_hooks().Add([device = device_] { device->Close(); });
}

Napi::Value HostDeviceObject::Directory(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device_->directory());
}

Napi::Value HostDeviceObject::Memory(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return MemoryValue(info.Env(), device_->Measure()); });
}

Napi::Value HostDeviceObject::Allocate(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const uint64_t bytes = WholeArgument(info[0], "bytes");
    return DeviceBufferObject::Wrap(info.This().As<Napi::Object>(), device_->Allocate(bytes));
  });
}

void HostDeviceObject::Close(const Napi::CallbackInfo&) { device_->Close(); }

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
  return NewObject(device.Env(), Environment::Of(device.Env()).device_buffer_class, std::move(allocation), device);
}

DeviceBufferObject::DeviceBufferObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeviceBufferObject>(info) {
  allocation_ = TakeContent<std::shared_ptr<DeviceAllocation>>(info, "a DeviceBuffer is made by HostDevice.allocate");
  device_ = Napi::Persistent(info[1].As<Napi::Object>());
  path_ = allocation_->mapping()->path();
  bytes_ = static_cast<double>(allocation_->mapping()->bytes());
  info.This().As<Napi::Object>().TypeTag(&kDeviceBufferTag);
}

const DeviceBufferObject* DeviceBufferObject::From(const Napi::Value& value) {
  if (!HasTag(value, kDeviceBufferTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>());
}

const std::shared_ptr<Mapping>& DeviceBufferObject::Open() const {
  if (!allocation_->mapping()) throw Failure(code::kClosed, "the device memory " + path_ + " is freed");
  return allocation_->mapping();
}

Napi::Value DeviceBufferObject::Path(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), path_); }

Napi::Value DeviceBufferObject::Bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), bytes_); }

Napi::Value DeviceBufferObject::Read(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return ReadMapping(info, *Open()); });
}

void DeviceBufferObject::Write(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { WriteMapping(info, *Open()); });
}

void DeviceBufferObject::Free(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { allocation_->Free(); });
}

namespace {

constexpr uint64_t kLargestRead = uint64_t{64} << 20;

Napi::Value UndefinedValue(Napi::Env env, const Outcome&) { return env.Undefined(); }

std::vector<cuda::SegmentCopies> SegmentsArgument(const Napi::Value& mappings, const Napi::Value& rectangles) {
  const Napi::Array segments = ArrayArgument(mappings, "segments");
  const Napi::Array copies = ArrayArgument(rectangles, "rectangles");
  if (segments.Length() != copies.Length()) {
    throw Failure(code::kOutOfRange, "an upload needs as many lists of rectangles as segments");
  }
  std::vector<cuda::SegmentCopies> arguments;
  for (uint32_t index = 0; index < segments.Length(); index++) {
    arguments.push_back(
        {MappingArgument(segments.Get(index), "segment"), Structures<RectangleCopy>(copies.Get(index), "rectangles")});
  }
  return arguments;
}

}  // namespace

Napi::Function CudaDeviceObject::Define(Napi::Env env) {
  return DefineClass(env, "CudaDevice",
                     {
                         InstanceAccessor<&CudaDeviceObject::Uuid>("uuid"),
                         InstanceAccessor<&CudaDeviceObject::NumaNode>("numaNode"),
                         InstanceAccessor<&CudaDeviceObject::PinnedBytes>("pinnedBytes"),
                         InstanceMethod<&CudaDeviceObject::Memory>("memory"),
                         InstanceMethod<&CudaDeviceObject::Allocate>("allocate"),
                         InstanceMethod<&CudaDeviceObject::OpenMemory>("open"),
                         InstanceMethod<&CudaDeviceObject::Pin>("pin"),
                         InstanceMethod<&CudaDeviceObject::Unpin>("unpin"),
                         InstanceMethod<&CudaDeviceObject::Upload>("upload"),
                         InstanceMethod<&CudaDeviceObject::Copy>("copy"),
                         InstanceMethod<&CudaDeviceObject::Read>("read"),
                         InstanceMethod<&CudaDeviceObject::Digest>("digest"),
                         InstanceMethod<&CudaDeviceObject::Close>("close"),
                     });
}

CudaDeviceObject::CudaDeviceObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CudaDeviceObject>(info) {
  Guarded(info.Env(), [&] {
    const uint64_t index = WholeArgument(info[0], "index");
    const unsigned pin_threads = ThreadsArgument(info[1], "pinThreads");
    const uint64_t stall_milliseconds = WholeArgument(info[2], "stallMilliseconds");
    if (index > static_cast<uint64_t>(std::numeric_limits<int>::max())) {
      throw Failure(code::kOutOfRange, "index is too large: " + std::to_string(index));
    }
    device_ = std::make_shared<cuda::CudaDevice>(static_cast<int>(index), pin_threads,
                                                 static_cast<double>(stall_milliseconds));
  });
  cleanup_ = Environment::Of(info.Env()).cleanup_hooks().Add([device = device_] { device->Stop(); });
  info.This().As<Napi::Object>().TypeTag(&kCudaDeviceTag);
}

std::shared_ptr<const cuda::PrimaryContext> CudaDeviceObject::ContextArgument(const Napi::Value& value,
                                                                              const char* name) {
  if (!HasTag(value, kCudaDeviceTag)) {
    ThrowArgumentType(value.Env(), name, "a CudaDevice");
  }
  return Unwrap(value.As<Napi::Object>())->device_->OpenContext();
}

Napi::Value CudaDeviceObject::Uuid(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device_->uuid());
}

Napi::Value CudaDeviceObject::NumaNode(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), device_->numa_node());
}

Napi::Value CudaDeviceObject::PinnedBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(device_->pinned_bytes()));
}

Napi::Value CudaDeviceObject::Memory(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return MemoryValue(info.Env(), device_->Measure()); });
}

Napi::Value CudaDeviceObject::Allocate(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const uint64_t bytes = WholeArgument(info[0], "bytes");
    return CudaBufferObject::Wrap(info.This().As<Napi::Object>(), device_->Allocate(bytes));
  });
}

Napi::Value CudaDeviceObject::OpenMemory(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const Napi::Uint8Array bytes = BytesArgument(info[0], "ipcHandle");
    cuda::IpcMemoryHandle handle{};
    if (bytes.ByteLength() != sizeof(handle.bytes)) {
      throw Failure(code::kOutOfRange, "a handle of device memory has " + std::to_string(sizeof(handle.bytes)) +
                                           " bytes, not " + std::to_string(bytes.ByteLength()));
    }
    std::memcpy(handle.bytes, bytes.Data(), sizeof(handle.bytes));
    return CudaBufferObject::Wrap(info.This().As<Napi::Object>(), device_->Open(handle));
  });
}

Napi::Value CudaDeviceObject::Pin(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) { device_->Pin(MappingArgument(info[0], "segment"), std::move(done)); };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, UndefinedValue);
}

Napi::Value CudaDeviceObject::Unpin(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const MappingObject* const object = MappingObject::From(info[0]);
    if (object == nullptr) ThrowArgumentType(info.Env(), "segment", "a Mapping");
    // One that is pinned is still there when its object is closed.
    const std::shared_ptr<Mapping> mapping = object->Last();
    if (!mapping) return done({});
    device_->Unpin(*mapping, std::move(done));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, UndefinedValue);
}

Napi::Value CudaDeviceObject::Upload(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    device_->SubmitUpload(SegmentsArgument(info[0], info[1]), CudaBufferObject::BlockArgument(info[2], "destination"),
                          std::move(done));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, IntervalValue);
}

Napi::Value CudaDeviceObject::Copy(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const cuda::DeviceLocation source{CudaBufferObject::BlockArgument(info[0], "source"),
                                      WholeArgument(info[1], "sourceOffset")};
    const cuda::DeviceLocation destination{CudaBufferObject::BlockArgument(info[2], "destination"),
                                           WholeArgument(info[3], "destinationOffset")};
    device_->SubmitCopy(source, destination, WholeArgument(info[4], "bytes"), std::move(done));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, IntervalValue);
}

Napi::Value CudaDeviceObject::Read(const Napi::CallbackInfo& info) {
  struct Result {
    std::shared_ptr<const cuda::HostMemory> memory;
    uint64_t bytes = 0;
  };
  const auto result = std::make_shared<Result>();
  const auto start = [&](Done done) {
    const cuda::DeviceLocation source{CudaBufferObject::BlockArgument(info[0], "source"),
                                      WholeArgument(info[1], "offset")};
    result->bytes = WholeArgument(info[2], "bytes");
    if (result->bytes > kLargestRead) {
      throw Failure(code::kOutOfRange, "read copies at most " + ByteSize(kLargestRead) + ", not " +
                                           std::to_string(result->bytes) + " bytes");
    }
    result->memory = device_->SubmitRead(source, result->bytes, std::move(done));
  };
  const auto to_value = [result](Napi::Env env, const Outcome&) -> Napi::Value {
    return Napi::Buffer<uint8_t>::Copy(env, result->memory->data(), result->bytes);
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, to_value);
}

Napi::Value CudaDeviceObject::Digest(const Napi::CallbackInfo& info) {
  const auto digests = std::make_shared<cuda::GpuDigest::Digests>();
  const auto start = [&](Done done) {
    *digests = device_->SubmitDigest(CudaBufferObject::BlockArgument(info[0], "buffer"),
                                     Structures<TensorPart>(info[1], "parts"), std::move(done));
  };
  const auto to_value = [digests](Napi::Env env, const Outcome&) { return DigestsValue(env, **digests); };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, to_value);
}

void CudaDeviceObject::Close(const Napi::CallbackInfo&) { device_->Close(); }

Napi::Function CudaBufferObject::Define(Napi::Env env) {
  return DefineClass(env, "CudaBuffer",
                     {
                         InstanceAccessor<&CudaBufferObject::Bytes>("bytes"),
                         InstanceAccessor<&CudaBufferObject::Handle>("ipcHandle"),
                         InstanceMethod<&CudaBufferObject::Free>("free"),
                     });
}

Napi::Value CudaBufferObject::Wrap(const Napi::Object& device, std::shared_ptr<cuda::CudaMemory> memory) {
  return NewObject(device.Env(), Environment::Of(device.Env()).cuda_buffer_class, std::move(memory), device);
}

CudaBufferObject::CudaBufferObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CudaBufferObject>(info) {
  memory_ = TakeContent<std::shared_ptr<cuda::CudaMemory>>(info, "a CudaBuffer is made by CudaDevice.allocate or CudaDevice.open");
  device_ = Napi::Persistent(info[1].As<Napi::Object>());
  bytes_ = static_cast<double>(memory_->block()->bytes());
  info.This().As<Napi::Object>().TypeTag(&kCudaBufferTag);
}

std::shared_ptr<const cuda::DeviceBlock> CudaBufferObject::BlockArgument(const Napi::Value& value, const char* name) {
  if (!HasTag(value, kCudaBufferTag)) {
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

Napi::Value ProbeCudaValue(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guarded(env, [&] {
    const cuda::Probe probe = cuda::ProbeDriver();
    Napi::Array devices = Napi::Array::New(env, probe.devices.size());
    for (uint32_t index = 0; index < probe.devices.size(); index++) {
      const cuda::ProbedDevice& found = probe.devices[index];
      Napi::Object device = Napi::Object::New(env);
      device.Set("uuid", found.uuid);
      device.Set("name", found.name);
      device.Set("totalBytes", static_cast<double>(found.total_bytes));
      device.Set("pciAddress", found.pci_address);
      devices.Set(index, device);
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("version", cuda::VersionText(probe.version));
    result.Set("devices", devices);
    return result;
  });
}

}  // namespace weightcast
