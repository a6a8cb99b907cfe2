#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "bridge/arguments.h"
#include "bridge/async.h"
#include "bridge/objects.h"
#include "collective/broadcast_copy.h"
#include "system/base.h"

namespace weightcast {
namespace {

/// A whole number below 2^32.
uint32_t RankOption(const Napi::Object& options, const char* name) {
  const uint64_t rank = WholeArgument(options.Get(name), name);
  if (rank <= std::numeric_limits<uint32_t>::max()) return static_cast<uint32_t>(rank);
  throw Failure(code::kOutOfRange, std::string(name) + " is too large: " + std::to_string(rank));
}

/// When the time that `timeoutMilliseconds` grants is over, in milliseconds of MonotonicMilliseconds().
double DeadlineOption(const Napi::Object& options) {
  const Napi::Value timeout = options.Get("timeoutMilliseconds");
  return MonotonicMilliseconds() + static_cast<double>(WholeArgument(timeout, "timeoutMilliseconds"));
}

/// The CudaBuffer in `source` and the offset in `sourceOffset`; without a block where `source` is null.
cuda::DeviceLocation SourceOption(const Napi::Object& options) {
  const Napi::Value buffer = options.Get("source");
  if (buffer.IsNull()) return {};
  return {CudaBufferObject::BlockArgument(buffer, "source"),
          WholeArgument(options.Get("sourceOffset"), "sourceOffset")};
}

/// The CudaBuffer in `destination` and the offset in `destinationOffset`.
cuda::DeviceLocation DestinationOption(const Napi::Object& options) {
  return {CudaBufferObject::BlockArgument(options.Get("destination"), "destination"),
          WholeArgument(options.Get("destinationOffset"), "destinationOffset")};
}

/// The collective itself and the buffers of a broadcast, which stay alive until it ends: a buffer that is collected
/// gives its memory back.
std::vector<Napi::Value> KeptForBroadcast(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> kept{info.This()};
  if (!info[0].IsObject()) return kept;
  for (const char* name : {"source", "destination"}) {
    const Napi::Value buffer = info[0].As<Napi::Object>().Get(name);
    if (buffer.IsObject()) kept.push_back(buffer);
  }
  return kept;
}

}  // namespace

namespace {

HostCopy::Locations HostLocationsArgument(const Napi::Object& options) {
  HostCopy::Locations locations;
  if (const Napi::Value source = options.Get("source"); !source.IsNull()) {
    locations.source = MappingArgument(source, "source");
    locations.source_offset = WholeArgument(options.Get("sourceOffset"), "sourceOffset");
  }
  locations.destination = MappingArgument(options.Get("destination"), "destination");
  locations.destination_offset = WholeArgument(options.Get("destinationOffset"), "destinationOffset");
  locations.bytes = WholeArgument(options.Get("bytes"), "bytes");
  return locations;
}

}  // namespace

Napi::Function ShmCollectiveObject::Define(Napi::Env env) {
  return DefineClass(env, "ShmCollective",
                     {
                         InstanceMethod<&ShmCollectiveObject::Broadcast>("broadcast"),
                         InstanceMethod<&ShmCollectiveObject::Abort>("abort"),
                         InstanceMethod<&ShmCollectiveObject::Close>("close"),
                     });
}

ShmCollectiveObject::ShmCollectiveObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ShmCollectiveObject>(info) {
  Guarded(info.Env(), [&] {
    const Napi::Object options = ObjectArgument(info[0], "options");
    const std::string path = TextArgument(options.Get("path"), "path");
    const uint32_t rank = RankOption(options, "rank");
    const uint32_t world_size = RankOption(options, "worldSize");
    const Napi::Value device = options.Get("device");
    is_on_cuda_ = !device.IsNull();
    std::shared_ptr<OpenedMemory> opened;
    if (is_on_cuda_) {
      opened = copier_ = std::make_shared<DeviceCopier>(CudaDeviceObject::ContextArgument(device, "device"));
    } else {
      opened = sources_ = std::make_shared<MappingCache>();
    }
    collective_ = std::make_unique<ShmCollective>(path, rank, world_size, std::move(opened));
  });
  cleanup_ = Environment::Of(info.Env()).cleanup_hooks().Add([collective = collective_.get()] { collective->Close(); });
}

Napi::Value ShmCollectiveObject::Broadcast(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const Napi::Object options = ObjectArgument(info[0], "options");
    weightcast::Broadcast broadcast;
    broadcast.root = RankOption(options, "root");
    broadcast.copy = CopyArgument(options);
    broadcast.deadline = DeadlineOption(options);
    broadcast.close_opened = FlagArgument(options.Get("letsGo"), "letsGo");
    broadcast.done = std::move(done);
    collective_->Submit(std::move(broadcast));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, KeptForBroadcast(info), IntervalValue);
}

std::unique_ptr<BroadcastCopy> ShmCollectiveObject::CopyArgument(const Napi::Object& options) const {
  if (!is_on_cuda_) return std::make_unique<HostCopy>(HostLocationsArgument(options), sources_);
  DeviceCopy::Locations locations{SourceOption(options), DestinationOption(options),
                                  WholeArgument(options.Get("bytes"), "bytes")};
  return std::make_unique<DeviceCopy>(std::move(locations), copier_);
}

void ShmCollectiveObject::Abort(const Napi::CallbackInfo&) { collective_->Abort(); }

void ShmCollectiveObject::Close(const Napi::CallbackInfo&) {
  collective_->Close();
  sources_.reset();
  copier_.reset();
}

namespace {

nccl::UniqueId IdOption(const Napi::Object& options) {
  const Napi::Uint8Array bytes = BytesArgument(options.Get("id"), "id");
  nccl::UniqueId id{};
  if (bytes.ByteLength() != sizeof(id.bytes)) {
    throw Failure(code::kOutOfRange, "id must have " + std::to_string(sizeof(id.bytes)) + " bytes, not " +
                                         std::to_string(bytes.ByteLength()));
  }
  std::memcpy(id.bytes, bytes.Data(), sizeof(id.bytes));
  return id;
}

NcclBroadcast BroadcastArgument(const Napi::Value& value) {
  const Napi::Object options = ObjectArgument(value, "options");
  NcclBroadcast broadcast;
  broadcast.root = RankOption(options, "root");
  broadcast.source = SourceOption(options);
  broadcast.destination = DestinationOption(options);
  broadcast.bytes = WholeArgument(options.Get("bytes"), "bytes");
  broadcast.deadline = DeadlineOption(options);
  return broadcast;
}

}  // namespace

Napi::Function NcclCollectiveObject::Define(Napi::Env env) {
  return DefineClass(env, "NcclCollective",
                     {
                         InstanceMethod<&NcclCollectiveObject::Open>("open"),
                         InstanceMethod<&NcclCollectiveObject::Broadcast>("broadcast"),
                         InstanceMethod<&NcclCollectiveObject::Abort>("abort"),
                         InstanceMethod<&NcclCollectiveObject::Close>("close"),
                     });
}

NcclCollectiveObject::NcclCollectiveObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<NcclCollectiveObject>(info) {
  Guarded(info.Env(), [&] {
    const Napi::Object options = ObjectArgument(info[0], "options");
    collective_ = std::make_unique<NcclCollective>(
        CudaDeviceObject::ContextArgument(options.Get("device"), "device"),
        NcclCollective::Options{TextArgument(options.Get("path"), "path"), IdOption(options),
                                RankOption(options, "rank"), RankOption(options, "worldSize")});
  });
  cleanup_ =
      Environment::Of(info.Env()).cleanup_hooks().Add([collective = collective_.get()] { collective->CloseAndWait(); });
}

Napi::Value NcclCollectiveObject::Open(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    collective_->Open(DeadlineOption(ObjectArgument(info[0], "options")), std::move(done));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, IntervalValue);
}

Napi::Value NcclCollectiveObject::Broadcast(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    NcclBroadcast broadcast = BroadcastArgument(info[0]);
    broadcast.done = std::move(done);
    collective_->Submit(std::move(broadcast));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, KeptForBroadcast(info), IntervalValue);
}

void NcclCollectiveObject::Abort(const Napi::CallbackInfo&) { collective_->Abort(); }

Napi::Value NcclCollectiveObject::Close(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) { collective_->Close(std::move(done)); };
  // The thread has nothing left to do; otherwise its stack would stay until the object is collected.
  const auto to_value = [collective = collective_.get()](Napi::Env env, const Outcome&) {
    collective->CloseAndWait();
    return env.Undefined();
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, to_value);
}

Napi::Value ProbeNcclValue(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const nccl::Library& library = nccl::Library::Get();
    Napi::Object probe = Napi::Object::New(info.Env());
    probe.Set("version", library.VersionText());
    probe.Set("allowsSharedDevices", library.AllowsSharedDevices());
    return probe;
  });
}

Napi::Value NcclUniqueIdValue(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const nccl::Library& library = nccl::Library::Get();
    nccl::UniqueId id{};
    library.Check(library.ncclGetUniqueId(&id), "NCCL cannot make an id");
    return Napi::Buffer<uint8_t>::Copy(info.Env(), reinterpret_cast<const uint8_t*>(id.bytes), sizeof(id.bytes));
  });
}

Napi::Value NcclVersionValue(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), nccl::Library::InstalledVersion()); });
}

}  // namespace weightcast
