#include "bridge/nccl_collective_object.h"

#include <cstring>
#include <string>
#include <utility>

#include "bridge/arguments.h"
#include "bridge/collective_arguments.h"
#include "bridge/cuda_device_object.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "system/failure.h"

namespace weightcast {
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
  ending_ = Environment::Of(info.Env()).endings().Add([collective = collective_.get()] {
    collective->CloseAndWait();
  });
}

Napi::Value NcclCollectiveObject::Open(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    collective_->Open(DeadlineOption(ObjectArgument(info[0], "options")), std::move(done));
  };
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, {info.This()}, IntervalValue);
}

Napi::Value NcclCollectiveObject::Broadcast(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    NcclBroadcast broadcast = BroadcastArgument(info[0]);
    broadcast.done = std::move(done);
    collective_->Give(std::move(broadcast));
  };
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, KeptForBroadcast(info), IntervalValue);
}

void NcclCollectiveObject::Abort(const Napi::CallbackInfo&) { collective_->Abort(); }

Napi::Value NcclCollectiveObject::Close(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) { collective_->Close(std::move(done)); };
  // The thread has nothing left to do; otherwise its stack would stay until the object is collected.
  const auto to_value = [collective = collective_.get()](Napi::Env env, const Outcome&) {
    collective->CloseAndWait();
    return env.Undefined();
  };
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, {info.This()}, to_value);
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

}  // namespace weightcast
