#pragma once

#include <napi.h>

#include <utility>

#include "system/failure.h"

namespace weightcast {

/// The failure as a JavaScript Error with `code`.
Napi::Error ErrorOf(Napi::Env env, const Failure& failure);

/// Runs `body`, which native code may leave with a Failure; JavaScript then sees it as an Error with `code`.
template <class Body>
auto Guarded(Napi::Env env, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const Failure& failure) {
    throw ErrorOf(env, failure);
  }
}

}  // namespace weightcast
