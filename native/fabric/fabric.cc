#include "fabric/fabric.h"

#include <future>
#include <utility>

#include "fabric/address.h"
#include "system/base.h"

namespace weightcast {
namespace {

constexpr size_t kShortestSecret = 16;

Handshake::Credentials CredentialsOf(Bytes secret) {
  if (secret.size() < kShortestSecret) {
    throw Failure(code::kOutOfRange, "a cluster's secret has at least " + std::to_string(kShortestSecret) +
                                         " bytes, not " + std::to_string(secret.size()));
  }
  return {std::move(secret), RandomArray<FabricId>()};
}

/// One socket at the wildcard address of IPv6 takes IPv4 as well, where there is IPv6.
UniqueFd ListenEverywhere(uint16_t port) {
  try {
    return Endpoint::Ip("::", port).Listen();
  } catch (const Failure& failure) {
    if (failure.error_number() == EADDRINUSE) throw;
    return Endpoint::Ip("0.0.0.0", port).Listen();
  }
}

}  // namespace

Fabric::Fabric(FabricOptions options)
    : context_{
          std::make_shared<FabricThreads>(options.data_threads, !options.rdma_ports.empty(),
                                          [this](const Failure& failure) { OnThreadError(failure); }),
          CredentialsOf(std::move(options.secret)), options.pool, options.streams,
          options.rdma_ports.empty() ? nullptr : std::make_shared<VerbsHost>(options.rdma_ports, options.verbs)} {
  try {
    server_ = std::make_unique<Server>(*context_.threads, context_.credentials, exposures_, context_.verbs.get());
    Listen(options);
  } catch (...) {
    Close();
    throw;
  }
}

Fabric::~Fabric() { Close(); }

void Fabric::Listen(const FabricOptions& options) {
  FabricAddress address;
  address.fabric = context_.credentials.self;
  address.boot = ThisBoot();
  address.port = options.port;
  std::vector<UniqueFd> sockets;
  for (const std::string& each : options.listen_addresses) {
    sockets.push_back(Endpoint::Ip(each, address.port).Listen());
    address.port = PortOf(sockets.front());
  }
  if (sockets.empty()) sockets.push_back(ListenEverywhere(options.port));
  address.port = PortOf(sockets.front());
  address.addresses = !options.advertised_addresses.empty() ? options.advertised_addresses
                      : !options.listen_addresses.empty()   ? options.listen_addresses
                                                            : HostAddresses();
  if (context_.verbs) {
    for (const auto& device : context_.verbs->devices()) address.rdma.push_back(device->address());
  }
  UniqueFd local = Endpoint::Local(context_.credentials.self).Listen();
  address_ = address.Encoded();
  // On the loop's thread, to which all of this belongs from now on.
  std::promise<void> listening;
  context_.threads->control.Post([&] {
    try {
      for (UniqueFd& socket : sockets) server_->ListenAt(std::move(socket), false);
      server_->ListenAt(std::move(local), true);
      listening.set_value();
    } catch (...) {
      listening.set_exception(std::current_exception());
    }
  });
  listening.get_future().get();
}

void Fabric::CheckOpen() const {
  if (closed_) throw Failure(code::kClosed, "the fabric is closed");
}

void Fabric::Expose(std::shared_ptr<Mapping> mapping, const Exposed& exposed) {
  CheckOpen();
  if (!context_.verbs) {
    const auto exposure = std::make_shared<Exposure>(std::move(mapping));
    exposures_.Add(exposure);
    return exposed(std::nullopt, exposure);
  }
  context_.threads->registrar->Post([this, mapping = std::move(mapping), exposed] {
    try {
      CheckOpen();
      const auto exposure = std::make_shared<Exposure>(mapping, context_.verbs->RegisterSource(*mapping));
      exposures_.Add(exposure);
      exposed(std::nullopt, exposure);
    } catch (...) {
      exposed(CurrentFailure(), nullptr);
    }
  });
}

void Fabric::Withdraw(std::shared_ptr<Exposure> exposure, const Done& done) {
  const double started_at = MonotonicMilliseconds();
  exposure->Withdraw();
  exposures_.Remove(exposure->token());
  context_.threads->control.Post([this, token = exposure->token()] {
    if (server_) server_->Withdraw(token);
  });
  const auto finish = [exposure = std::move(exposure), done, started_at] {
    if (exposure->regions()) exposure->regions()->Release();
    done({{started_at, MonotonicMilliseconds()}, std::nullopt});
  };
  if (!context_.verbs || !context_.threads->registrar->Post(finish)) finish();
}

void Fabric::Connect(uint64_t number, Connector::Call call, Connector::Done done) {
  CheckOpen();
  context_.threads->control.Post([this, number, call = std::move(call), done = std::move(done)]() mutable {
    // A connector that ends within Start() is not in the map yet.
    const auto ended = std::make_shared<bool>(false);
    const auto connector = Connector::Start(
        context_, std::move(call),
        [this, number, ended, done = std::move(done)](std::optional<Failure> failure, std::shared_ptr<Peer> peer) {
          *ended = true;
          connectors_.erase(number);
          if (peer) Adopt(peer);
          done(std::move(failure), std::move(peer));
        });
    if (!*ended) connectors_[number] = connector;
  });
}

void Fabric::Adopt(const std::shared_ptr<Peer>& peer) {
  peers_.insert(peer);
  peer->OnEnd([this, key = peer.get()] {
    for (auto at = peers_.begin(); at != peers_.end(); ++at) {
      if (at->get() != key) continue;
      // Later: the peer is what called this.
      context_.threads->control.Post([kept = *at] {});
      peers_.erase(at);
      return;
    }
  });
}

void Fabric::CancelConnect(uint64_t number) {
  context_.threads->control.Post([this, number] {
    const auto found = connectors_.find(number);
    if (found == connectors_.end()) return;
    const auto connector = found->second;
    connector->Cancel();
  });
}

void Fabric::OnThreadError(const Failure& failure) {
  const Failure ended("EIO", std::string("the fabric ended its connections after an error: ") + failure.what());
  context_.threads->control.Post([this, ended] { EndConnections(ended); });
}

void Fabric::EndConnections(const Failure& failure) {
  for (const auto& [number, connector] : std::map(connectors_)) connector->Fail(failure);
  for (const auto& peer : std::set(peers_)) peer->End(failure);
}

void Fabric::Close() {
  if (closed_.exchange(true)) return;
  context_.threads->Stop();
  // From here on only this thread uses what belonged to the loops.
  const Failure closed(code::kAborted, "the fabric was closed");
  for (const auto& exposure : exposures_.TakeAll()) {
    exposure->Withdraw();
    if (exposure->regions()) exposure->regions()->Release();
  }
  EndConnections(closed);
  // Reads and connections that were submitted but not begun yet.
  context_.threads->RunPending();
  EndConnections(closed);
  context_.threads->RunPending();
  server_.reset();
  context_.threads->Clear();
  if (context_.verbs) context_.verbs->Close();
}

}  // namespace weightcast
