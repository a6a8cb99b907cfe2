#include "bridge/probes.h"

#include "bridge/arguments.h"
#include "bridge/error.h"
#include "device/cuda/driver.h"
#include "device/cuda/probe.h"
#include "system/library.h"

namespace weightcast {

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

Napi::Value NcclVersionValue(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), NcclVersion()); });
}

Napi::Value WhyNotLoadedValue(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&]() -> Napi::Value {
    const std::optional<std::string> reason = WhyNotLoaded(TextArgument(info[0], "library"));
    if (!reason) return info.Env().Null();
    return Napi::String::New(info.Env(), *reason);
  });
}

}  // namespace weightcast
