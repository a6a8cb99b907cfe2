#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace weightcast {

/// The part of libibverbs' binary interface that the fabric uses, declared here so that the addon needs no headers to
/// be built and no library to be loaded. It has been the same since version 1.1 of the interface, in 2007; a test
/// compares it with <infiniband/verbs.h> where that is installed. Names without `ibv_`, otherwise as in the manual
/// pages.
namespace ibv {

struct Device;
struct Pd;
struct Srq;
struct Cq;
struct Qp;
struct SendWr;
struct Wc;

using Unused = void*;

/// What verbs.h calls inline, through the table of the provider.
struct ContextOps {
  Unused before_poll_cq[11];
  int (*poll_cq)(Cq*, int entries, Wc*);
  int (*req_notify_cq)(Cq*, int solicited_only);
  Unused before_post_send[12];
  int (*post_send)(Qp*, SendWr*, SendWr** bad);
  Unused after_post_send[6];
};

struct Context {
  Device* device;
  ContextOps ops;
};

struct CompChannel {
  Context* context;
  int fd;
  int references;
};

struct Cq {
  Context* context;
};

struct Qp {
  Context* context;
  void* qp_context;
  Pd* pd;
  Cq* send_cq;
  Cq* recv_cq;
  Srq* srq;
  uint32_t handle;
  uint32_t qp_num;
};

struct Mr {
  Context* context;
  Pd* pd;
  void* addr;
  size_t length;
  uint32_t handle;
  uint32_t lkey;
  uint32_t rkey;
};

struct DeviceAttr {
  char fw_ver[64];
  uint64_t node_guid;
  uint64_t sys_image_guid;
  uint64_t max_mr_size;
  uint64_t page_size_cap;
  uint32_t vendor_id;
  uint32_t vendor_part_id;
  uint32_t hw_ver;
  int max_qp;
  int max_qp_wr;
  unsigned device_cap_flags;
  int max_sge;
  int max_sge_rd;
  int max_cq;
  int max_cqe;
  int max_mr;
  int max_pd;
  int max_qp_rd_atom;
  int max_ee_rd_atom;
  int max_res_rd_atom;
  int max_qp_init_rd_atom;
  int max_ee_init_rd_atom;
  int atomic_cap;
  int unused[11];
  int max_srq;
  int max_srq_wr;
  int max_srq_sge;
  uint16_t max_pkeys;
  uint8_t local_ca_ack_delay;
  uint8_t phys_port_cnt;
};

struct PortAttr {
  int state;
  int max_mtu;
  int active_mtu;
  int gid_tbl_len;
  uint32_t port_cap_flags;
  uint32_t max_msg_sz;
  uint32_t bad_pkey_cntr;
  uint32_t qkey_viol_cntr;
  uint16_t pkey_tbl_len;
  uint16_t lid;
  uint16_t sm_lid;
  uint8_t lmc;
  uint8_t max_vl_num;
  uint8_t sm_sl;
  uint8_t subnet_timeout;
  uint8_t init_type_reply;
  uint8_t active_width;
  uint8_t active_speed;
  uint8_t phys_state;
  uint8_t link_layer;
  uint8_t flags;
  uint16_t port_cap_flags2;
  /// Later versions of the library write one more field here: room for it.
  uint32_t active_speed_ex;
};

struct GlobalRoute {
  /// A union with two words of 64 bits in verbs.h, hence the alignment.
  alignas(8) uint8_t dgid[16];
  uint32_t flow_label;
  uint8_t sgid_index;
  uint8_t hop_limit;
  uint8_t traffic_class;
};

struct AhAttr {
  GlobalRoute grh;
  uint16_t dlid;
  uint8_t sl;
  uint8_t src_path_bits;
  uint8_t static_rate;
  uint8_t is_global;
  uint8_t port_num;
};

struct QpCap {
  uint32_t max_send_wr;
  uint32_t max_recv_wr;
  uint32_t max_send_sge;
  uint32_t max_recv_sge;
  uint32_t max_inline_data;
};

struct QpInitAttr {
  void* qp_context;
  Cq* send_cq;
  Cq* recv_cq;
  Srq* srq;
  QpCap cap;
  int qp_type;
  int sq_sig_all;
};

struct QpAttr {
  int qp_state;
  int cur_qp_state;
  int path_mtu;
  int path_mig_state;
  uint32_t qkey;
  uint32_t rq_psn;
  uint32_t sq_psn;
  uint32_t dest_qp_num;
  unsigned qp_access_flags;
  QpCap cap;
  AhAttr ah_attr;
  AhAttr alt_ah_attr;
  uint16_t pkey_index;
  uint16_t alt_pkey_index;
  uint8_t en_sqd_async_notify;
  uint8_t sq_draining;
  uint8_t max_rd_atomic;
  uint8_t max_dest_rd_atomic;
  uint8_t min_rnr_timer;
  uint8_t port_num;
  uint8_t timeout;
  uint8_t retry_cnt;
  uint8_t rnr_retry;
  uint8_t alt_port_num;
  uint8_t alt_timeout;
  uint32_t rate_limit;
};

struct Sge {
  uint64_t addr;
  uint32_t length;
  uint32_t lkey;
};

struct SendWr {
  uint64_t wr_id;
  SendWr* next;
  Sge* sg_list;
  int num_sge;
  int opcode;
  unsigned send_flags;
  uint32_t imm_data;
  uint64_t remote_addr;
  uint32_t rkey;
  /// Of other operations.
  uint64_t unused[12];
};

struct Wc {
  uint64_t wr_id;
  int status;
  int opcode;
  uint32_t vendor_err;
  uint32_t byte_len;
  uint32_t imm_data;
  uint32_t qp_num;
  uint32_t src_qp;
  unsigned wc_flags;
  uint16_t pkey_index;
  uint16_t slid;
  uint8_t sl;
  uint8_t dlid_path_bits;
};

inline constexpr int kPortActive = 4;
inline constexpr uint8_t kLinkLayerInfiniBand = 1;
inline constexpr uint8_t kLinkLayerEthernet = 2;

inline constexpr int kAccessLocalWrite = 1 << 0;
inline constexpr int kAccessRemoteRead = 1 << 2;
inline constexpr unsigned kAccessRelaxedOrdering = 1u << 20;

inline constexpr int kQptRc = 2;
inline constexpr int kQpsInit = 1;
inline constexpr int kQpsRtr = 2;
inline constexpr int kQpsRts = 3;

inline constexpr int kQpState = 1 << 0;
inline constexpr int kQpAccessFlags = 1 << 3;
inline constexpr int kQpPkeyIndex = 1 << 4;
inline constexpr int kQpPort = 1 << 5;
inline constexpr int kQpAv = 1 << 7;
inline constexpr int kQpPathMtu = 1 << 8;
inline constexpr int kQpTimeout = 1 << 9;
inline constexpr int kQpRetryCnt = 1 << 10;
inline constexpr int kQpRnrRetry = 1 << 11;
inline constexpr int kQpRqPsn = 1 << 12;
inline constexpr int kQpMaxQpRdAtomic = 1 << 13;
inline constexpr int kQpMinRnrTimer = 1 << 15;
inline constexpr int kQpSqPsn = 1 << 16;
inline constexpr int kQpMaxDestRdAtomic = 1 << 17;
inline constexpr int kQpDestQpn = 1 << 20;

inline constexpr int kWrRdmaRead = 4;
inline constexpr unsigned kSendSignaled = 1 << 1;

inline constexpr int kWcSuccess = 0;
inline constexpr int kWcRemoteAccessError = 10;

}  // namespace ibv

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
  /// As reg_mr, but leaves out of `access` what may be left out and the kernel does not know. Null before rdma-core 28.
  ibv::Mr* (*reg_mr_iova2)(ibv::Pd*, void* address, size_t length, uint64_t iova, unsigned access);
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
