#pragma once

#include <napi.h>

namespace weightcast {

/// What the machine has, for src/native-bridge/probe.ts.

/// { version, devices: [{ uuid, name, totalBytes, pciAddress }] }
Napi::Value ProbeCudaValue(const Napi::CallbackInfo& info);

/// A number, as NcclVersion().
Napi::Value NcclVersionValue(const Napi::CallbackInfo& info);

/// The reason, or null if the library of that name is loaded.
Napi::Value WhyNotLoadedValue(const Napi::CallbackInfo& info);

}  // namespace weightcast
