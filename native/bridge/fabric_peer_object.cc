#include "bridge/fabric_peer_object.h"

#include <utility>
#include <vector>

#include "bridge/arguments.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "system/failure.h"

namespace weightcast {
namespace {

std::vector<ReadRange> RangesArgument(const Napi::Value& value) {
  constexpr size_t kGroup = 3;
  const std::vector<uint64_t> numbers = WholeNumbers(value, "ranges", kGroup);
  std::vector<ReadRange> ranges;
  ranges.reserve(numbers.size() / kGroup);
  for (size_t at = 0; at < numbers.size(); at += kGroup) {
    ranges.push_back({numbers[at], numbers[at + 1], numbers[at + 2]});
  }
  return ranges;
}

Peer::Order OrderArgument(const Napi::Object& options) {
  Peer::Order order;
  order.number = WholeArgument(options.Get("number"), "number");
  order.token = FixedBytes<Token>(options.Get("token"), "token");
  order.ranges = RangesArgument(options.Get("ranges"));
  order.destination = MappingArgument(options.Get("destination"), "destination");
  order.progress = ProgressArgument(options.Get("progress"));
  const Napi::Value timeout = options.Get("timeoutMilliseconds");
  order.timeout_milliseconds = static_cast<double>(WholeArgument(timeout, "timeoutMilliseconds"));
  return order;
}

}  // namespace

Napi::Function FabricPeerObject::Define(Napi::Env env) {
  return DefineClass(env, "FabricPeer",
                     {
                         InstanceAccessor<&FabricPeerObject::Kind>("kind"),
                         InstanceMethod<&FabricPeerObject::Read>("read"),
                         InstanceMethod<&FabricPeerObject::Cancel>("cancel"),
                         InstanceMethod<&FabricPeerObject::Close>("close"),
                     });
}

Napi::Value FabricPeerObject::Wrap(const Napi::Object& fabric, std::shared_ptr<Peer> peer) {
  const Napi::Env env = fabric.Env();
  // The constructor takes the pointer over from here.
  const auto external = Napi::External<std::shared_ptr<Peer>>::New(env, &peer);
  return Environment::Of(env).fabric_peer_class.New({external, fabric});
}

FabricPeerObject::FabricPeerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<FabricPeerObject>(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a FabricPeer is made by Fabric.connect");
  peer_ = std::move(*info[0].As<Napi::External<std::shared_ptr<Peer>>>().Data());
  fabric_ = Napi::Persistent(info[1].As<Napi::Object>());
}

FabricPeerObject::~FabricPeerObject() {
  if (peer_) peer_->Close();
}

Napi::Value FabricPeerObject::Kind(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), peer_->kind());
}

Napi::Value FabricPeerObject::Read(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> kept{info.This()};
  for (const char* name : {"destination", "progress"}) {
    if (!info[0].IsObject()) break;
    const Napi::Value object = info[0].As<Napi::Object>().Get(name);
    if (object.IsObject()) kept.push_back(object);
  }
  const auto start = [&](Done done) {
    Peer::Order order = OrderArgument(ObjectArgument(info[0], "options"));
    order.done = std::move(done);
    peer_->Give(std::move(order));
  };
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, IntervalValue);
}

void FabricPeerObject::Cancel(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { peer_->Cancel(WholeArgument(info[0], "number")); });
}

void FabricPeerObject::Close(const Napi::CallbackInfo&) { peer_->Close(); }

}  // namespace weightcast
