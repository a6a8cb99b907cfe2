#include "bridge/collective_arguments.h"

#include <limits>
#include <string>

#include "bridge/arguments.h"
#include "bridge/cuda_buffer_object.h"
#include "system/clock.h"
#include "system/failure.h"

namespace weightcast {

uint32_t RankOption(const Napi::Object& options, const char* name) {
  const uint64_t rank = WholeArgument(options.Get(name), name);
  if (rank <= std::numeric_limits<uint32_t>::max()) return static_cast<uint32_t>(rank);
  throw Failure(code::kOutOfRange, std::string(name) + " is too large: " + std::to_string(rank));
}

double DeadlineOption(const Napi::Object& options) {
  const Napi::Value timeout = options.Get("timeoutMilliseconds");
  return MonotonicMilliseconds() + static_cast<double>(WholeArgument(timeout, "timeoutMilliseconds"));
}

cuda::DevicePlace SourceOption(const Napi::Object& options) {
  const Napi::Value buffer = options.Get("source");
  if (buffer.IsNull()) return {};
  return {CudaBufferObject::BlockArgument(buffer, "source"), WholeArgument(options.Get("sourceOffset"), "sourceOffset")};
}

cuda::DevicePlace DestinationOption(const Napi::Object& options) {
  return {CudaBufferObject::BlockArgument(options.Get("destination"), "destination"),
          WholeArgument(options.Get("destinationOffset"), "destinationOffset")};
}

std::vector<Napi::Value> KeptForBroadcast(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> kept{info.This()};
  if (!info[0].IsObject()) return kept;
  for (const char* name : {"source", "destination"}) {
    const Napi::Value buffer = info[0].As<Napi::Object>().Get(name);
    if (buffer.IsObject()) kept.push_back(buffer);
  }
  return kept;
}

}  // namespace weightcast
