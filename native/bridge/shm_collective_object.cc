#include "bridge/shm_collective_object.h"

#include <string>
#include <utility>

#include "bridge/arguments.h"
#include "bridge/collective_arguments.h"
#include "bridge/cuda_device_object.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "collective/host_copy.h"

namespace weightcast {
namespace {

HostCopy::Places HostPlacesArgument(const Napi::Object& options) {
  HostCopy::Places places;
  if (const Napi::Value source = options.Get("source"); !source.IsNull()) {
    places.source = MappingArgument(source, "source");
    places.source_offset = WholeArgument(options.Get("sourceOffset"), "sourceOffset");
  }
  places.destination = MappingArgument(options.Get("destination"), "destination");
  places.destination_offset = WholeArgument(options.Get("destinationOffset"), "destinationOffset");
  places.bytes = WholeArgument(options.Get("bytes"), "bytes");
  return places;
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

ShmCollectiveObject::ShmCollectiveObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<ShmCollectiveObject>(info) {
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
      opened = sources_ = std::make_shared<SourceCache>();
    }
    collective_ = std::make_unique<ShmCollective>(path, rank, world_size, std::move(opened));
  });
  ending_ = Environment::Of(info.Env()).endings().Add([collective = collective_.get()] { collective->Close(); });
}

Napi::Value ShmCollectiveObject::Broadcast(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const Napi::Object options = ObjectArgument(info[0], "options");
    weightcast::Broadcast broadcast;
    broadcast.root = RankOption(options, "root");
    broadcast.copy = CopyArgument(options);
    broadcast.deadline = DeadlineOption(options);
    broadcast.lets_go = FlagArgument(options.Get("letsGo"), "letsGo");
    broadcast.done = std::move(done);
    collective_->Give(std::move(broadcast));
  };
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, KeptForBroadcast(info), IntervalValue);
}

std::unique_ptr<BroadcastCopy> ShmCollectiveObject::CopyArgument(const Napi::Object& options) const {
  if (!is_on_cuda_) return std::make_unique<HostCopy>(HostPlacesArgument(options), sources_);
  DeviceCopy::Places places{SourceOption(options), DestinationOption(options),
                            WholeArgument(options.Get("bytes"), "bytes")};
  return std::make_unique<DeviceCopy>(std::move(places), copier_);
}

void ShmCollectiveObject::Abort(const Napi::CallbackInfo&) { collective_->Abort(); }

void ShmCollectiveObject::Close(const Napi::CallbackInfo&) {
  collective_->Close();
  sources_.reset();
  copier_.reset();
}

}  // namespace weightcast
