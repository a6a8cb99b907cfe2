#include "bridge/shm_collective_object.h"

#include <limits>
#include <utility>
#include <vector>

#include "bridge/arguments.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "system/failure.h"

namespace weightcast {
namespace {

uint32_t RankArgument(const Napi::Value& value, const char* name) {
  const uint64_t rank = WholeArgument(value, name);
  if (rank <= std::numeric_limits<uint32_t>::max()) return static_cast<uint32_t>(rank);
  throw Failure(code::kOutOfRange, std::string(name) + " is too large: " + std::to_string(rank));
}

Broadcast BroadcastArgument(const Napi::Object& options) {
  Broadcast broadcast;
  broadcast.root = RankArgument(options.Get("root"), "root");
  if (const Napi::Value source = options.Get("source"); !source.IsNull()) {
    broadcast.source = MappingArgument(source, "source");
    broadcast.source_offset = WholeArgument(options.Get("sourceOffset"), "sourceOffset");
  }
  broadcast.destination = MappingArgument(options.Get("destination"), "destination");
  broadcast.destination_offset = WholeArgument(options.Get("destinationOffset"), "destinationOffset");
  broadcast.bytes = WholeArgument(options.Get("bytes"), "bytes");
  const Napi::Value timeout = options.Get("timeoutMilliseconds");
  broadcast.deadline =
      MonotonicMilliseconds() + static_cast<double>(WholeArgument(timeout, "timeoutMilliseconds"));
  return broadcast;
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
    const uint32_t rank = RankArgument(options.Get("rank"), "rank");
    const uint32_t world_size = RankArgument(options.Get("worldSize"), "worldSize");
    collective_ = std::make_unique<ShmCollective>(path, rank, world_size);
  });
  ending_ = Environment::Of(info.Env()).endings().Add([collective = collective_.get()] { collective->Close(); });
}

Napi::Value ShmCollectiveObject::Broadcast(const Napi::CallbackInfo& info) {
  // Also the buffers stay: one that is collected gives its device memory back.
  std::vector<Napi::Value> kept{info.This()};
  for (const char* name : {"source", "destination"}) {
    if (!info[0].IsObject()) break;
    const Napi::Value buffer = info[0].As<Napi::Object>().Get(name);
    if (buffer.IsObject()) kept.push_back(buffer);
  }
  const auto start = [&](Done done) {
    weightcast::Broadcast broadcast = BroadcastArgument(ObjectArgument(info[0], "options"));
    broadcast.done = std::move(done);
    collective_->Give(std::move(broadcast));
  };
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, IntervalValue);
}

void ShmCollectiveObject::Abort(const Napi::CallbackInfo&) { collective_->Abort(); }

void ShmCollectiveObject::Close(const Napi::CallbackInfo&) { collective_->Close(); }

}  // namespace weightcast
