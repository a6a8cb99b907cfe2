#include "bridge/error.h"

#include <uv.h>

namespace weightcast {

Napi::Error ErrorOf(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.what());
  const bool is_system = failure.error_number() != 0;
  error.Set("code", is_system ? std::string(uv_err_name(-failure.error_number())) : failure.code());
  return error;
}

}  // namespace weightcast
