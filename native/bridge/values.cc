#include "bridge/values.h"

namespace weightcast {

Napi::Value MemoryValue(Napi::Env env, const DeviceMemory& measured) {
  Napi::Object memory = Napi::Object::New(env);
  memory.Set("free", static_cast<double>(measured.free));
  memory.Set("total", static_cast<double>(measured.total));
  return memory;
}

Napi::Value DigestsValue(Napi::Env env, const std::vector<uint64_t>& digests) {
  Napi::BigUint64Array array = Napi::BigUint64Array::New(env, digests.size());
  for (size_t index = 0; index < digests.size(); index++) array.Data()[index] = digests[index];
  return array;
}

}  // namespace weightcast
