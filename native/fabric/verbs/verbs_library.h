#pragma once

#include <cstdint>
#include <string>

#include "fabric/verbs/verbs_abi.h"

namespace weightcast {

/// libibverbs.so.1, loaded when it is first asked for. The addon runs without it.
struct VerbsLibrary {
  /// Null if it is not there, or too old; `why` then says so, if it is asked. Never unloaded.
  static const VerbsLibrary* Load(std::string* why = nullptr);

  ibv::Device** (*get_device_list)(int* count);
  void (*free_device_list)(ibv::Device** list);
  const char* (*get_device_name)(ibv::Device*);
  ibv::Context* (*open_device)(ibv::Device*);
  int (*close_device)(ibv::Context*);
  int (*query_device)(ibv::Context*, ibv::DeviceAttr*);
  int (*query_port)(ibv::Context*, uint8_t port, ibv::PortAttr*);
  int (*query_gid)(ibv::Context*, uint8_t port, int index, uint8_t* gid);
  ibv::Pd* (*alloc_pd)(ibv::Context*);
  int (*dealloc_pd)(ibv::Pd*);
  ibv::Mr* (*reg_mr)(ibv::Pd*, void* address, size_t length, int access);
  int (*dereg_mr)(ibv::Mr*);
  ibv::CompChannel* (*create_comp_channel)(ibv::Context*);
  int (*destroy_comp_channel)(ibv::CompChannel*);
  ibv::Cq* (*create_cq)(ibv::Context*, int entries, void* cq_context, ibv::CompChannel*, int vector);
  int (*destroy_cq)(ibv::Cq*);
  int (*get_cq_event)(ibv::CompChannel*, ibv::Cq**, void** cq_context);
  void (*ack_cq_events)(ibv::Cq*, unsigned count);
  ibv::Qp* (*create_qp)(ibv::Pd*, ibv::QpInitAttr*);
  int (*modify_qp)(ibv::Qp*, ibv::QpAttr*, int mask);
  int (*destroy_qp)(ibv::Qp*);
  const char* (*wc_status_str)(int status);
};

}  // namespace weightcast
