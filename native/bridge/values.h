#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

#include "device/device_memory.h"

namespace weightcast {

/// What several classes return to JavaScript.

/// { free, total }
Napi::Value MemoryValue(Napi::Env env, const DeviceMemory& measured);

/// A BigUint64Array.
Napi::Value DigestsValue(Napi::Env env, const std::vector<uint64_t>& digests);

}  // namespace weightcast
