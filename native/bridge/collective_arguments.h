#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

#include "device/cuda/cuda_device.h"

namespace weightcast {

/// Readers of the arguments of collectives; errors as in arguments.h. `options` is the object that the collective was
/// given; what is read of it has the name of its field.

/// A whole number below 2^32.
uint32_t RankOption(const Napi::Object& options, const char* name);
/// When the time that `timeoutMilliseconds` grants is over, in milliseconds of MonotonicMilliseconds().
double DeadlineOption(const Napi::Object& options);
/// The CudaBuffer in `source` and the offset in `sourceOffset`; without a block where `source` is null.
cuda::DevicePlace SourceOption(const Napi::Object& options);
/// The CudaBuffer in `destination` and the offset in `destinationOffset`.
cuda::DevicePlace DestinationOption(const Napi::Object& options);

/// The collective itself and the buffers of a broadcast, which stay alive until it ends: a buffer that is collected
/// gives its memory back.
std::vector<Napi::Value> KeptForBroadcast(const Napi::CallbackInfo& info);

}  // namespace weightcast
