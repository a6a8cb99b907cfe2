#include <type_traits>
#include <utility>
#include <vector>

#include "bridge/arguments.h"
#include "bridge/async.h"
#include "bridge/objects.h"
#include "system/base.h"

namespace weightcast {
namespace {

uint64_t Within(const Napi::Value& value, const char* name, uint64_t least, uint64_t most) {
  const uint64_t number = WholeArgument(value, name);
  if (number >= least && number <= most) return number;
  throw Failure(code::kOutOfRange, std::string(name) + " must be " + std::to_string(least) + " to " +
                                       std::to_string(most) + ", not " + std::to_string(number));
}

std::vector<std::pair<std::string, uint8_t>> RdmaPortsArgument(const Napi::Value& value) {
  const Napi::Array array = ArrayArgument(value, "rdmaPorts");
  std::vector<std::pair<std::string, uint8_t>> ports;
  for (uint32_t index = 0; index < array.Length(); index++) {
    const Napi::Object port = ObjectArgument(array.Get(index), "rdmaPorts");
    ports.emplace_back(TextArgument(port.Get("device"), "device"),
                       static_cast<uint8_t>(Within(port.Get("port"), "port", 1, 255)));
  }
  return ports;
}

std::vector<std::string> AddressesArgument(const Napi::Object& options, const char* name) {
  std::vector<std::string> addresses = TextsArgument(options.Get(name), name);
  for (const std::string& address : addresses) {
    if (IsNumericIp(address)) continue;
    throw Failure("EINVAL", std::string(name) + " must be numeric IP addresses, not '" + address + "'");
  }
  return addresses;
}

VerbsParameters VerbsArgument(const Napi::Object& options) {
  VerbsParameters parsed;
  if (const Napi::Value index = options.Get("gidIndex"); !index.IsNull()) {
    parsed.gid_index = static_cast<int>(Within(index, "gidIndex", 0, 255));
  }
  const auto set = [&](const char* name, auto& field, uint64_t most) {
    const Napi::Value value = options.Get(name);
    if (!value.IsNull()) field = static_cast<std::decay_t<decltype(field)>>(Within(value, name, 0, most));
  };
  set("trafficClass", parsed.traffic_class, 255);
  set("serviceLevel", parsed.service_level, 15);
  set("pkeyIndex", parsed.pkey_index, 65535);
  set("timeout", parsed.timeout, 31);
  set("retries", parsed.retries, 7);
  if (const Napi::Value relaxed = options.Get("relaxedOrdering"); !relaxed.IsNull()) {
    parsed.relaxed_ordering = relaxed.ToBoolean();
  }
  return parsed;
}

FabricOptions OptionsArgument(const Napi::Object& options) {
  FabricOptions parsed;
  parsed.secret = CopiedBytes(options.Get("secret"), "secret");
  parsed.listen_addresses = AddressesArgument(options, "listenAddresses");
  parsed.port = static_cast<uint16_t>(Within(options.Get("port"), "port", 0, 65535));
  parsed.advertised_addresses = AddressesArgument(options, "advertisedAddresses");
  parsed.data_threads = static_cast<unsigned>(Within(options.Get("threads"), "threads", 1, 64));
  parsed.streams = static_cast<unsigned>(Within(options.Get("streams"), "streams", 1, 64));
  parsed.rdma_ports = RdmaPortsArgument(options.Get("rdmaPorts"));
  parsed.verbs = VerbsArgument(ObjectArgument(options.Get("verbs"), "verbs"));
  parsed.pool = ThreadPoolArgument(options.Get("pool"), "pool");
  return parsed;
}

Way WayArgument(const Napi::Value& value) {
  const std::string way = TextArgument(value, "way");
  if (way == "any") return Way::kAny;
  if (way == "shm") return Way::kShm;
  if (way == "verbs") return Way::kVerbs;
  if (way == "tcp") return Way::kTcp;
  throw Failure("EINVAL", "way must be any, shm, verbs or tcp, not " + way);
}

Connector::Call CallArgument(const Napi::Object& options) {
  Connector::Call call;
  call.address = FabricAddress::Decoded(CopiedBytes(options.Get("address"), "address"));
  call.name = TextArgument(options.Get("name"), "name");
  call.way = WayArgument(options.Get("way"));
  const Napi::Value timeout = options.Get("timeoutMilliseconds");
  call.timeout_milliseconds = static_cast<double>(WholeArgument(timeout, "timeoutMilliseconds"));
  return call;
}

/// Of a form that a function which is copied may hold.
std::shared_ptr<Napi::ObjectReference> SharedReference(const Napi::Value& object) {
  return std::make_shared<Napi::ObjectReference>(Napi::Persistent(object.As<Napi::Object>()));
}

Outcome OutcomeOf(std::optional<Failure> failure) {
  const double now = MonotonicMilliseconds();
  return {{now, now}, std::move(failure)};
}

}  // namespace

Napi::Function FabricObject::Define(Napi::Env env) {
  return DefineClass(env, "Fabric",
                     {
                         StaticMethod<&FabricObject::RdmaPorts>("rdmaPorts"),
                         InstanceAccessor<&FabricObject::Address>("address"),
                         InstanceMethod<&FabricObject::Expose>("expose"),
                         InstanceMethod<&FabricObject::Connect>("connect"),
                         InstanceMethod<&FabricObject::CancelConnect>("cancelConnect"),
                         InstanceMethod<&FabricObject::Close>("close"),
                     });
}

FabricObject::FabricObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<FabricObject>(info) {
  Guarded(info.Env(), [&] {
    const Napi::Object options = ObjectArgument(info[0], "options");
    fabric_ = std::make_shared<Fabric>(OptionsArgument(options));
    pool_ = Napi::Persistent(options.Get("pool").As<Napi::Object>());
  });
  cleanup_ = Environment::Of(info.Env()).cleanup_hooks().Add([fabric = fabric_.get()] { fabric->Close(); });
}

FabricObject::~FabricObject() {
  if (fabric_) fabric_->Close();
}

Napi::Value FabricObject::RdmaPorts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string why;
  const std::vector<RdmaPort> found = ListRdmaPorts(&why);
  Napi::Array ports = Napi::Array::New(env, found.size());
  for (uint32_t index = 0; index < found.size(); index++) {
    Napi::Object port = Napi::Object::New(env);
    port.Set("device", found[index].device);
    port.Set("port", static_cast<double>(found[index].port));
    port.Set("isActive", found[index].is_active);
    port.Set("linkLayer", found[index].is_infiniband ? "infiniband" : "ethernet");
    ports.Set(index, port);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("ports", ports);
  result.Set("why", why);
  return result;
}

Napi::Value FabricObject::Address(const Napi::CallbackInfo& info) {
  const Bytes& address = fabric_->address();
  return Napi::Buffer<uint8_t>::Copy(info.Env(), address.data(), address.size());
}

Napi::Value FabricObject::Expose(const Napi::CallbackInfo& info) {
  const auto result = std::make_shared<std::shared_ptr<Exposure>>();
  const auto start = [&](Done done) {
    fabric_->Expose(MappingArgument(info[0], "segment"),
                    [result = result, done = std::move(done)](std::optional<Failure> failure,
                                                              std::shared_ptr<Exposure> made) mutable {
                      *result = std::move(made);
                      // From here on only the promise reads it, on its own thread.
                      result.reset();
                      done(OutcomeOf(std::move(failure)));
                    });
  };
  const auto to_value = [result, fabric = fabric_, object = SharedReference(info.This())](Napi::Env, const Outcome&) {
    return ExposureObject::Wrap(object->Value(), fabric, std::move(*result));
  };
  const std::vector<Napi::Value> kept{info.This(), info[0]};
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, to_value);
}

Napi::Value FabricObject::Connect(const Napi::CallbackInfo& info) {
  const auto result = std::make_shared<std::shared_ptr<Peer>>();
  const auto start = [&](Done done) {
    const Napi::Object options = ObjectArgument(info[0], "options");
    const uint64_t number = WholeArgument(options.Get("number"), "number");
    fabric_->Connect(number, CallArgument(options),
                     [result = result, done = std::move(done)](std::optional<Failure> failure,
                                                               std::shared_ptr<Peer> peer) mutable {
                       *result = std::move(peer);
                       result.reset();
                       done(OutcomeOf(std::move(failure)));
                     });
  };
  const auto to_value = [result, object = SharedReference(info.This())](Napi::Env, const Outcome&) {
    return FabricPeerObject::Wrap(object->Value(), std::move(*result));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, to_value);
}

void FabricObject::CancelConnect(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { fabric_->CancelConnect(WholeArgument(info[0], "number")); });
}

void FabricObject::Close(const Napi::CallbackInfo&) { fabric_->Close(); }

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

Peer::Request RequestArgument(const Napi::Object& options) {
  Peer::Request request;
  request.number = WholeArgument(options.Get("number"), "number");
  request.token = FixedBytes<Token>(options.Get("token"), "token");
  request.ranges = RangesArgument(options.Get("ranges"));
  request.destination = MappingArgument(options.Get("destination"), "destination");
  request.progress = ProgressArgument(options.Get("progress"));
  const Napi::Value timeout = options.Get("timeoutMilliseconds");
  request.timeout_milliseconds = static_cast<double>(WholeArgument(timeout, "timeoutMilliseconds"));
  return request;
}

}  // namespace

Napi::Function FabricPeerObject::Define(Napi::Env env) {
  return DefineClass(env, "FabricPeer",
                     {
                         InstanceAccessor<&FabricPeerObject::Kind>("kind"),
                         InstanceAccessor<&FabricPeerObject::WhyNotRdma>("whyNotRdma"),
                         InstanceMethod<&FabricPeerObject::Read>("read"),
                         InstanceMethod<&FabricPeerObject::Cancel>("cancel"),
                         InstanceMethod<&FabricPeerObject::Close>("close"),
                     });
}

Napi::Value FabricPeerObject::Wrap(const Napi::Object& fabric, std::shared_ptr<Peer> peer) {
  return NewObject(fabric.Env(), Environment::Of(fabric.Env()).fabric_peer_class, std::move(peer), fabric);
}

FabricPeerObject::FabricPeerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<FabricPeerObject>(info) {
  peer_ = TakeContent<std::shared_ptr<Peer>>(info, "a FabricPeer is made by Fabric.connect");
  fabric_ = Napi::Persistent(info[1].As<Napi::Object>());
}

FabricPeerObject::~FabricPeerObject() {
  if (peer_) peer_->Close();
}

Napi::Value FabricPeerObject::Kind(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), peer_->kind());
}

Napi::Value FabricPeerObject::WhyNotRdma(const Napi::CallbackInfo& info) {
  const std::string& why = peer_->why_not_rdma();
  return why.empty() ? info.Env().Null() : Napi::String::New(info.Env(), why);
}

Napi::Value FabricPeerObject::Read(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> kept{info.This()};
  for (const char* name : {"destination", "progress"}) {
    if (!info[0].IsObject()) break;
    const Napi::Value object = info[0].As<Napi::Object>().Get(name);
    if (object.IsObject()) kept.push_back(object);
  }
  const auto start = [&](Done done) {
    Peer::Request request = RequestArgument(ObjectArgument(info[0], "options"));
    request.done = std::move(done);
    peer_->Submit(std::move(request));
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, IntervalValue);
}

void FabricPeerObject::Cancel(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { peer_->Cancel(WholeArgument(info[0], "number")); });
}

void FabricPeerObject::Close(const Napi::CallbackInfo&) { peer_->Close(); }

Napi::Function ExposureObject::Define(Napi::Env env) {
  return DefineClass(env, "Exposure",
                     {
                         InstanceAccessor<&ExposureObject::Token>("token"),
                         InstanceAccessor<&ExposureObject::Readers>("readers"),
                         InstanceMethod<&ExposureObject::Close>("close"),
                     });
}

Napi::Value ExposureObject::Wrap(const Napi::Object& object, std::shared_ptr<Fabric> fabric,
                                 std::shared_ptr<Exposure> exposure) {
  Content content{std::move(fabric), std::move(exposure)};
  return NewObject(object.Env(), Environment::Of(object.Env()).exposure_class, std::move(content), object);
}

ExposureObject::ExposureObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ExposureObject>(info) {
  content_ = TakeContent<Content>(info, "an Exposure is made by Fabric.expose");
  token_ = content_.exposure->token();
  object_ = Napi::Persistent(info[1].As<Napi::Object>());
}

Napi::Value ExposureObject::Token(const Napi::CallbackInfo& info) {
  return Napi::Buffer<uint8_t>::Copy(info.Env(), token_.data(), token_.size());
}

Napi::Value ExposureObject::Readers(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), content_.exposure ? content_.exposure->readers.load() : 0);
}

Napi::Value ExposureObject::Close(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const double now = MonotonicMilliseconds();
    if (!content_.exposure) return done({{now, now}, std::nullopt});
    content_.fabric->Withdraw(std::move(content_.exposure), done);
  };
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, {info.This()}, IntervalValue);
}

}  // namespace weightcast
