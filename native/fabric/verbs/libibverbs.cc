#include "fabric/verbs/libibverbs.h"

#include <dlfcn.h>

#include <optional>

namespace weightcast {
namespace {

struct Loaded {
  std::optional<VerbsLibrary> library;
  std::string why;
};

/// Of some functions the library has two: those of version 1.0 of its interface take other structures.
template <class Function>
bool Find(void* handle, const char* name, Function& function, std::string& why) {
  void* symbol = dlvsym(handle, name, "IBVERBS_1.1");
  if (symbol == nullptr) symbol = dlvsym(handle, name, "IBVERBS_1.0");
  if (symbol == nullptr) why = std::string("libibverbs.so.1 has no ") + name;
  function = reinterpret_cast<Function>(symbol);
  return symbol != nullptr;
}

Loaded LoadOnce() {
  Loaded loaded;
  void* const handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    loaded.why = dlerror();
    return loaded;
  }
  VerbsLibrary found{};
  int (*fork_init)() = nullptr;
  const auto find = [&](const char* name, auto& function) { return Find(handle, name, function, loaded.why); };
  const bool is_whole =
      find("ibv_fork_init", fork_init) && find("ibv_get_device_list", found.get_device_list) &&
      find("ibv_free_device_list", found.free_device_list) && find("ibv_get_device_name", found.get_device_name) &&
      find("ibv_open_device", found.open_device) && find("ibv_close_device", found.close_device) &&
      find("ibv_query_device", found.query_device) && find("ibv_query_port", found.query_port) &&
      find("ibv_query_gid", found.query_gid) && find("ibv_alloc_pd", found.alloc_pd) &&
      find("ibv_dealloc_pd", found.dealloc_pd) && find("ibv_reg_mr", found.reg_mr) &&
      find("ibv_dereg_mr", found.dereg_mr) && find("ibv_create_comp_channel", found.create_comp_channel) &&
      find("ibv_destroy_comp_channel", found.destroy_comp_channel) && find("ibv_create_cq", found.create_cq) &&
      find("ibv_destroy_cq", found.destroy_cq) && find("ibv_get_cq_event", found.get_cq_event) &&
      find("ibv_ack_cq_events", found.ack_cq_events) && find("ibv_create_qp", found.create_qp) &&
      find("ibv_modify_qp", found.modify_qp) && find("ibv_destroy_qp", found.destroy_qp) &&
      find("ibv_wc_status_str", found.wc_status_str);
  if (!is_whole) return loaded;
  found.reg_mr_iova2 = reinterpret_cast<decltype(found.reg_mr_iova2)>(dlvsym(handle, "ibv_reg_mr_iova2", "IBVERBS_1.8"));
  // Node starts child processes: between fork and exec a child must not take pages from under the card. A kernel that
  // sees to it itself makes this a call without effect.
  fork_init();
  loaded.library = found;
  return loaded;
}

}  // namespace

const VerbsLibrary* VerbsLibrary::Load(std::string* why) {
  static const auto* const loaded = new Loaded(LoadOnce());
  if (why != nullptr) *why = loaded->why;
  return loaded->library ? &*loaded->library : nullptr;
}

}  // namespace weightcast
