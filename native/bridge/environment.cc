#include "bridge/environment.h"

namespace weightcast {

Environment::Environment(Napi::Env env) : settler_(env), endings_(std::make_shared<Endings>(settler_.Closer())) {
  // Hooks run in reverse order, so this one runs before that of the settler's thread-safe function: when that goes,
  // no thread of ours is left that could call it.
  napi_add_env_cleanup_hook(
      env, [](void* endings) { static_cast<Endings*>(endings)->EndAll(); }, endings_.get());
  EndAtExit(endings_);
}

}  // namespace weightcast
