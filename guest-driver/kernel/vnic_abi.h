/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT */
/* Made from the crate vnic-abi by `cargo xtask tidy --fix`. Do not edit. */
#ifndef VNIC_ABI_H
#define VNIC_ABI_H

#include <linux/types.h>
#include <linux/stddef.h>

#define VNIC_ABI_VERSION 0x10000
#define VNIC_PAGE_SIZE 0x1000
#define VNIC_MAGIC 0x4e565554474e4f54ULL
#define VNIC_VIRTIO_ID_RDMA 0x2a
#define VNIC_VIRTIO_ID_STAND_IN 0x26
#define VNIC_VQ_CTRL 0x0
#define VNIC_VQ_EVENT 0x1
#define VNIC_VQ_PAGE_REQUEST 0x2
#define VNIC_VQ_KICK 0x3
#define VNIC_VQ_COUNT 0x4
#define VNIC_MAX_RING_PAGES 0x1100
#define VNIC_WQE_STRIDE_MIN 0x40
#define VNIC_WQE_STRIDE_MAX 0x200
#define VNIC_SEND_WQE_PAYLOAD 0x20
#define VNIC_ATOMIC_WQE_PAYLOAD 0x30
#define VNIC_RECV_WQE_PAYLOAD 0x10
#define VNIC_CQE_SIZE 0x20
#define VNIC_CQ_RING_OFFSET 0x1000
#define VNIC_CQ_CONSUMER_OFFSET 0x0
#define VNIC_CQ_ARM_OFFSET 0x40
#define VNIC_DOORBELL_BITS 0x4000
#define VNIC_DOORBELL_NEED_KICK 0x0
#define VNIC_DOORBELL_BITMAP 0x40
#define VNIC_QP_RQ_WANTS_DOORBELL 0x0
#define VNIC_QP_SQ_OFFSET 0x1000
#define VNIC_EPOCH_SLOTS 0x40
#define VNIC_EPOCH_SLOT_SIZE 0x40
#define VNIC_INVALIDATION_RING 0x20
#define VNIC_INVALIDATION_RING_OFFSET 0x40
#define VNIC_PORT_STILL_REACHES 0x1
#define VNIC_UVERBS_ABI_VERSION 0x1

#define VNIC_STATUS_OK 0x0
#define VNIC_STATUS_MALFORMED 0x1
#define VNIC_STATUS_UNKNOWN_COMMAND 0x2
#define VNIC_STATUS_BAD_HANDLE 0x3
#define VNIC_STATUS_LIMIT 0x4
#define VNIC_STATUS_BAD_STATE 0x5
#define VNIC_STATUS_BAD_ADDRESS 0x6
#define VNIC_STATUS_BAD_SIZE 0x7
#define VNIC_STATUS_BUSY 0x8
#define VNIC_STATUS_UNSUPPORTED 0x9
#define VNIC_STATUS_EXISTS 0xa
#define VNIC_STATUS_BAD_ATTRIBUTE 0xb

#define VNIC_CMD_INIT 0x1
#define VNIC_CMD_NOP 0x2
#define VNIC_CMD_SHUTDOWN 0x3
#define VNIC_CMD_GID_SET 0x4
#define VNIC_CMD_GID_CLEAR 0x5
#define VNIC_CMD_PASID_BIND 0x6
#define VNIC_CMD_PASID_UNBIND 0x7
#define VNIC_CMD_CTX_CREATE 0x8
#define VNIC_CMD_CTX_DESTROY 0x9
#define VNIC_CMD_PD_CREATE 0xa
#define VNIC_CMD_PD_DESTROY 0xb
#define VNIC_CMD_MR_CREATE 0xc
#define VNIC_CMD_MR_DESTROY 0xd
#define VNIC_CMD_CQ_CREATE 0xe
#define VNIC_CMD_CQ_DESTROY 0xf
#define VNIC_CMD_QP_CREATE 0x10
#define VNIC_CMD_QP_MODIFY 0x11
#define VNIC_CMD_QP_QUERY 0x12
#define VNIC_CMD_QP_DESTROY 0x13
#define VNIC_CMD_PAGE_RESPONSE 0x14
#define VNIC_CMD_QUERY_COUNTERS 0x15
#define VNIC_CMD_MR_MODIFY 0x16

#define VNIC_GID_TYPE_ROCE_V1 0x1
#define VNIC_GID_TYPE_ROCE_V2 0x2

#define VNIC_PAGING_X86_LEVEL4 0x4
#define VNIC_PAGING_X86_LEVEL5 0x5

#define VNIC_QPT_RC 0x2
#define VNIC_QPT_UC 0x3
#define VNIC_QPT_UD 0x4

#define VNIC_QPS_RESET 0x0
#define VNIC_QPS_INIT 0x1
#define VNIC_QPS_RTR 0x2
#define VNIC_QPS_RTS 0x3
#define VNIC_QPS_SQD 0x4
#define VNIC_QPS_SQE 0x5
#define VNIC_QPS_ERR 0x6

#define VNIC_OP_SEND 0x1
#define VNIC_OP_SEND_WITH_IMM 0x2
#define VNIC_OP_RDMA_WRITE 0x3
#define VNIC_OP_RDMA_WRITE_WITH_IMM 0x4
#define VNIC_OP_RDMA_READ 0x5
#define VNIC_OP_ATOMIC_CMP_SWAP 0x6
#define VNIC_OP_ATOMIC_FETCH_ADD 0x7

#define VNIC_WC_SUCCESS 0x0
#define VNIC_WC_LOC_LEN_ERR 0x1
#define VNIC_WC_LOC_QP_OP_ERR 0x2
#define VNIC_WC_LOC_PROT_ERR 0x4
#define VNIC_WC_WR_FLUSH_ERR 0x5
#define VNIC_WC_BAD_RESP_ERR 0x7
#define VNIC_WC_LOC_ACCESS_ERR 0x8
#define VNIC_WC_REM_INV_REQ_ERR 0x9
#define VNIC_WC_REM_ACCESS_ERR 0xa
#define VNIC_WC_REM_OP_ERR 0xb
#define VNIC_WC_RETRY_EXC_ERR 0xc
#define VNIC_WC_RNR_RETRY_EXC_ERR 0xd
#define VNIC_WC_FATAL_ERR 0x13
#define VNIC_WC_GENERAL_ERR 0x15

#define VNIC_WC_OP_SEND 0x0
#define VNIC_WC_OP_RDMA_WRITE 0x1
#define VNIC_WC_OP_RDMA_READ 0x2
#define VNIC_WC_OP_COMP_SWAP 0x3
#define VNIC_WC_OP_FETCH_ADD 0x4
#define VNIC_WC_OP_RECV 0x80
#define VNIC_WC_OP_RECV_RDMA_WITH_IMM 0x81

#define VNIC_CQ_ARM_NONE 0x0
#define VNIC_CQ_ARM_SOLICITED 0x1
#define VNIC_CQ_ARM_ANY 0x2

#define VNIC_EVENT_COMPLETION 0x1
#define VNIC_EVENT_CQ_ERROR 0x2
#define VNIC_EVENT_QP_FATAL 0x3
#define VNIC_EVENT_QP_REQUEST_ERROR 0x4
#define VNIC_EVENT_QP_ACCESS_ERROR 0x5
#define VNIC_EVENT_COMM_ESTABLISHED 0x6
#define VNIC_EVENT_LAST_WQE_REACHED 0x7
#define VNIC_EVENT_CONTEXT_FATAL 0x8
#define VNIC_EVENT_PORT_DOWN 0x9
#define VNIC_EVENT_PORT_UP 0xa

#define VNIC_PAGE_RESPONSE_SUCCESS 0x0
#define VNIC_PAGE_RESPONSE_INVALID 0x1
#define VNIC_PAGE_RESPONSE_GONE 0x2

#define VNIC_F_ATOMIC 0x1
#define VNIC_F_UD 0x2
#define VNIC_F_UC 0x4
#define VNIC_F_SRQ 0x8
#define VNIC_F_PIN 0x10
#define VNIC_F_IMPLICIT_MR 0x20
#define VNIC_F_ACKNOWLEDGE 0x40
#define VNIC_F_PORT_EVENTS 0x80

#define VNIC_ACCESS_LOCAL_WRITE 0x1
#define VNIC_ACCESS_REMOTE_WRITE 0x2
#define VNIC_ACCESS_REMOTE_READ 0x4
#define VNIC_ACCESS_REMOTE_ATOMIC 0x8
#define VNIC_ACCESS_ZERO_BASED 0x20
#define VNIC_ACCESS_ON_DEMAND 0x40
#define VNIC_ACCESS_RELAXED_ORDERING 0x100000

#define VNIC_MR_ATTR_TRANSLATION 0x1
#define VNIC_MR_ATTR_PD 0x2
#define VNIC_MR_ATTR_ACCESS 0x4

#define VNIC_QP_ATTR_STATE 0x1
#define VNIC_QP_ATTR_CUR_STATE 0x2
#define VNIC_QP_ATTR_ACCESS_FLAGS 0x8
#define VNIC_QP_ATTR_PKEY_INDEX 0x10
#define VNIC_QP_ATTR_PORT 0x20
#define VNIC_QP_ATTR_QKEY 0x40
#define VNIC_QP_ATTR_AV 0x80
#define VNIC_QP_ATTR_PATH_MTU 0x100
#define VNIC_QP_ATTR_TIMEOUT 0x200
#define VNIC_QP_ATTR_RETRY_CNT 0x400
#define VNIC_QP_ATTR_RNR_RETRY 0x800
#define VNIC_QP_ATTR_RQ_PSN 0x1000
#define VNIC_QP_ATTR_MAX_QP_RD_ATOMIC 0x2000
#define VNIC_QP_ATTR_MIN_RNR_TIMER 0x8000
#define VNIC_QP_ATTR_SQ_PSN 0x10000
#define VNIC_QP_ATTR_MAX_DEST_RD_ATOMIC 0x20000
#define VNIC_QP_ATTR_DEST_QPN 0x100000

#define VNIC_WQE_F_SIGNALED 0x1
#define VNIC_WQE_F_FENCE 0x2
#define VNIC_WQE_F_SOLICITED 0x4
#define VNIC_WQE_F_INLINE 0x8
#define VNIC_WQE_F_PHASE 0x80

#define VNIC_CQE_F_WITH_IMM 0x1
#define VNIC_CQE_F_GRH 0x2
#define VNIC_CQE_F_PHASE 0x80

#define VNIC_PAGE_ACCESS_READ 0x1
#define VNIC_PAGE_ACCESS_WRITE 0x2

struct vnic_config {
	__le64 magic;
	__le32 version;
	__le32 reserved0;
	__le64 features;
	__le32 max_qp;
	__le32 max_cq;
	__le32 max_mr;
	__le32 max_pd;
	__le32 max_ctx;
	__le32 max_sq_depth;
	__le32 max_rq_depth;
	__le32 max_cq_depth;
	__le32 max_sge;
	__le32 max_inline;
	__le32 max_rd_atomic;
	__le32 max_msg_size;
	__le32 max_gid;
	__le32 num_workers;
	__u8 active_mtu;
	__u8 reserved1;
	__u8 mac[6];
	__le64 max_mr_size;
};
_Static_assert(sizeof(struct vnic_config) == 96, "vnic_config");
_Static_assert(__builtin_offsetof(struct vnic_config, magic) == 0, "vnic_config.magic");
_Static_assert(__builtin_offsetof(struct vnic_config, version) == 8, "vnic_config.version");
_Static_assert(__builtin_offsetof(struct vnic_config, reserved0) == 12, "vnic_config.reserved0");
_Static_assert(__builtin_offsetof(struct vnic_config, features) == 16, "vnic_config.features");
_Static_assert(__builtin_offsetof(struct vnic_config, max_qp) == 24, "vnic_config.max_qp");
_Static_assert(__builtin_offsetof(struct vnic_config, max_cq) == 28, "vnic_config.max_cq");
_Static_assert(__builtin_offsetof(struct vnic_config, max_mr) == 32, "vnic_config.max_mr");
_Static_assert(__builtin_offsetof(struct vnic_config, max_pd) == 36, "vnic_config.max_pd");
_Static_assert(__builtin_offsetof(struct vnic_config, max_ctx) == 40, "vnic_config.max_ctx");
_Static_assert(__builtin_offsetof(struct vnic_config, max_sq_depth) == 44, "vnic_config.max_sq_depth");
_Static_assert(__builtin_offsetof(struct vnic_config, max_rq_depth) == 48, "vnic_config.max_rq_depth");
_Static_assert(__builtin_offsetof(struct vnic_config, max_cq_depth) == 52, "vnic_config.max_cq_depth");
_Static_assert(__builtin_offsetof(struct vnic_config, max_sge) == 56, "vnic_config.max_sge");
_Static_assert(__builtin_offsetof(struct vnic_config, max_inline) == 60, "vnic_config.max_inline");
_Static_assert(__builtin_offsetof(struct vnic_config, max_rd_atomic) == 64, "vnic_config.max_rd_atomic");
_Static_assert(__builtin_offsetof(struct vnic_config, max_msg_size) == 68, "vnic_config.max_msg_size");
_Static_assert(__builtin_offsetof(struct vnic_config, max_gid) == 72, "vnic_config.max_gid");
_Static_assert(__builtin_offsetof(struct vnic_config, num_workers) == 76, "vnic_config.num_workers");
_Static_assert(__builtin_offsetof(struct vnic_config, active_mtu) == 80, "vnic_config.active_mtu");
_Static_assert(__builtin_offsetof(struct vnic_config, reserved1) == 81, "vnic_config.reserved1");
_Static_assert(__builtin_offsetof(struct vnic_config, mac) == 82, "vnic_config.mac");
_Static_assert(__builtin_offsetof(struct vnic_config, max_mr_size) == 88, "vnic_config.max_mr_size");

struct vnic_cmd_header {
	__le32 opcode;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_cmd_header) == 8, "vnic_cmd_header");
_Static_assert(__builtin_offsetof(struct vnic_cmd_header, opcode) == 0, "vnic_cmd_header.opcode");
_Static_assert(__builtin_offsetof(struct vnic_cmd_header, reserved) == 4, "vnic_cmd_header.reserved");

struct vnic_reply_header {
	__le32 status;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_reply_header) == 8, "vnic_reply_header");
_Static_assert(__builtin_offsetof(struct vnic_reply_header, status) == 0, "vnic_reply_header.status");
_Static_assert(__builtin_offsetof(struct vnic_reply_header, reserved) == 4, "vnic_reply_header.reserved");

struct vnic_cmd_handle {
	__le32 handle;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_cmd_handle) == 8, "vnic_cmd_handle");
_Static_assert(__builtin_offsetof(struct vnic_cmd_handle, handle) == 0, "vnic_cmd_handle.handle");
_Static_assert(__builtin_offsetof(struct vnic_cmd_handle, reserved) == 4, "vnic_cmd_handle.reserved");

struct vnic_reply_handle {
	__le32 handle;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_reply_handle) == 8, "vnic_reply_handle");
_Static_assert(__builtin_offsetof(struct vnic_reply_handle, handle) == 0, "vnic_reply_handle.handle");
_Static_assert(__builtin_offsetof(struct vnic_reply_handle, reserved) == 4, "vnic_reply_handle.reserved");

struct vnic_cmd_init {
	__le32 version;
	__le32 reserved;
	__le64 features;
	__le64 epoch_page;
};
_Static_assert(sizeof(struct vnic_cmd_init) == 24, "vnic_cmd_init");
_Static_assert(__builtin_offsetof(struct vnic_cmd_init, version) == 0, "vnic_cmd_init.version");
_Static_assert(__builtin_offsetof(struct vnic_cmd_init, reserved) == 4, "vnic_cmd_init.reserved");
_Static_assert(__builtin_offsetof(struct vnic_cmd_init, features) == 8, "vnic_cmd_init.features");
_Static_assert(__builtin_offsetof(struct vnic_cmd_init, epoch_page) == 16, "vnic_cmd_init.epoch_page");

struct vnic_cmd_gid_set {
	__le32 index;
	__u8 gid_type;
	__u8 reserved[3];
	__u8 gid[16];
};
_Static_assert(sizeof(struct vnic_cmd_gid_set) == 24, "vnic_cmd_gid_set");
_Static_assert(__builtin_offsetof(struct vnic_cmd_gid_set, index) == 0, "vnic_cmd_gid_set.index");
_Static_assert(__builtin_offsetof(struct vnic_cmd_gid_set, gid_type) == 4, "vnic_cmd_gid_set.gid_type");
_Static_assert(__builtin_offsetof(struct vnic_cmd_gid_set, reserved) == 5, "vnic_cmd_gid_set.reserved");
_Static_assert(__builtin_offsetof(struct vnic_cmd_gid_set, gid) == 8, "vnic_cmd_gid_set.gid");

struct vnic_cmd_pasid_bind {
	__le64 root;
	__le64 invalidation_page;
	__le32 mode;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_cmd_pasid_bind) == 24, "vnic_cmd_pasid_bind");
_Static_assert(__builtin_offsetof(struct vnic_cmd_pasid_bind, root) == 0, "vnic_cmd_pasid_bind.root");
_Static_assert(__builtin_offsetof(struct vnic_cmd_pasid_bind, invalidation_page) == 8, "vnic_cmd_pasid_bind.invalidation_page");
_Static_assert(__builtin_offsetof(struct vnic_cmd_pasid_bind, mode) == 16, "vnic_cmd_pasid_bind.mode");
_Static_assert(__builtin_offsetof(struct vnic_cmd_pasid_bind, reserved) == 20, "vnic_cmd_pasid_bind.reserved");

struct vnic_cmd_ctx_create {
	__le64 doorbell_page;
	__le32 pasid;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_cmd_ctx_create) == 16, "vnic_cmd_ctx_create");
_Static_assert(__builtin_offsetof(struct vnic_cmd_ctx_create, doorbell_page) == 0, "vnic_cmd_ctx_create.doorbell_page");
_Static_assert(__builtin_offsetof(struct vnic_cmd_ctx_create, pasid) == 8, "vnic_cmd_ctx_create.pasid");
_Static_assert(__builtin_offsetof(struct vnic_cmd_ctx_create, reserved) == 12, "vnic_cmd_ctx_create.reserved");

struct vnic_cmd_pd_create {
	__le32 ctx;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_cmd_pd_create) == 8, "vnic_cmd_pd_create");
_Static_assert(__builtin_offsetof(struct vnic_cmd_pd_create, ctx) == 0, "vnic_cmd_pd_create.ctx");
_Static_assert(__builtin_offsetof(struct vnic_cmd_pd_create, reserved) == 4, "vnic_cmd_pd_create.reserved");

struct vnic_cmd_mr_create {
	__le32 pd;
	__le32 access;
	__le64 start;
	__le64 length;
	__le64 iova;
};
_Static_assert(sizeof(struct vnic_cmd_mr_create) == 32, "vnic_cmd_mr_create");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_create, pd) == 0, "vnic_cmd_mr_create.pd");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_create, access) == 4, "vnic_cmd_mr_create.access");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_create, start) == 8, "vnic_cmd_mr_create.start");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_create, length) == 16, "vnic_cmd_mr_create.length");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_create, iova) == 24, "vnic_cmd_mr_create.iova");

struct vnic_reply_mr_create {
	__le32 handle;
	__le32 lkey;
	__le32 rkey;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_reply_mr_create) == 16, "vnic_reply_mr_create");
_Static_assert(__builtin_offsetof(struct vnic_reply_mr_create, handle) == 0, "vnic_reply_mr_create.handle");
_Static_assert(__builtin_offsetof(struct vnic_reply_mr_create, lkey) == 4, "vnic_reply_mr_create.lkey");
_Static_assert(__builtin_offsetof(struct vnic_reply_mr_create, rkey) == 8, "vnic_reply_mr_create.rkey");
_Static_assert(__builtin_offsetof(struct vnic_reply_mr_create, reserved) == 12, "vnic_reply_mr_create.reserved");

struct vnic_cmd_mr_modify {
	__le32 mr;
	__le32 mask;
	__le32 pd;
	__le32 access;
	__le64 start;
	__le64 length;
	__le64 iova;
};
_Static_assert(sizeof(struct vnic_cmd_mr_modify) == 40, "vnic_cmd_mr_modify");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_modify, mr) == 0, "vnic_cmd_mr_modify.mr");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_modify, mask) == 4, "vnic_cmd_mr_modify.mask");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_modify, pd) == 8, "vnic_cmd_mr_modify.pd");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_modify, access) == 12, "vnic_cmd_mr_modify.access");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_modify, start) == 16, "vnic_cmd_mr_modify.start");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_modify, length) == 24, "vnic_cmd_mr_modify.length");
_Static_assert(__builtin_offsetof(struct vnic_cmd_mr_modify, iova) == 32, "vnic_cmd_mr_modify.iova");

struct vnic_page_list {
	__le64 list;
	__le32 count;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_page_list) == 16, "vnic_page_list");
_Static_assert(__builtin_offsetof(struct vnic_page_list, list) == 0, "vnic_page_list.list");
_Static_assert(__builtin_offsetof(struct vnic_page_list, count) == 8, "vnic_page_list.count");
_Static_assert(__builtin_offsetof(struct vnic_page_list, reserved) == 12, "vnic_page_list.reserved");

struct vnic_cmd_cq_create {
	__le32 ctx;
	__le32 depth;
	__le64 cookie;
	struct vnic_page_list pages;
};
_Static_assert(sizeof(struct vnic_cmd_cq_create) == 32, "vnic_cmd_cq_create");
_Static_assert(__builtin_offsetof(struct vnic_cmd_cq_create, ctx) == 0, "vnic_cmd_cq_create.ctx");
_Static_assert(__builtin_offsetof(struct vnic_cmd_cq_create, depth) == 4, "vnic_cmd_cq_create.depth");
_Static_assert(__builtin_offsetof(struct vnic_cmd_cq_create, cookie) == 8, "vnic_cmd_cq_create.cookie");
_Static_assert(__builtin_offsetof(struct vnic_cmd_cq_create, pages) == 16, "vnic_cmd_cq_create.pages");

struct vnic_cmd_qp_create {
	__le32 pd;
	__le32 send_cq;
	__le32 recv_cq;
	__u8 qp_type;
	__u8 sq_sig_all;
	__le16 reserved;
	__le32 sq_depth;
	__le32 sq_stride;
	__le32 rq_depth;
	__le32 rq_stride;
	__le64 cookie;
	struct vnic_page_list pages;
};
_Static_assert(sizeof(struct vnic_cmd_qp_create) == 56, "vnic_cmd_qp_create");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, pd) == 0, "vnic_cmd_qp_create.pd");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, send_cq) == 4, "vnic_cmd_qp_create.send_cq");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, recv_cq) == 8, "vnic_cmd_qp_create.recv_cq");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, qp_type) == 12, "vnic_cmd_qp_create.qp_type");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, sq_sig_all) == 13, "vnic_cmd_qp_create.sq_sig_all");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, reserved) == 14, "vnic_cmd_qp_create.reserved");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, sq_depth) == 16, "vnic_cmd_qp_create.sq_depth");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, sq_stride) == 20, "vnic_cmd_qp_create.sq_stride");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, rq_depth) == 24, "vnic_cmd_qp_create.rq_depth");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, rq_stride) == 28, "vnic_cmd_qp_create.rq_stride");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, cookie) == 32, "vnic_cmd_qp_create.cookie");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_create, pages) == 40, "vnic_cmd_qp_create.pages");

struct vnic_reply_qp_create {
	__le32 qpn;
	__le32 doorbell_index;
};
_Static_assert(sizeof(struct vnic_reply_qp_create) == 8, "vnic_reply_qp_create");
_Static_assert(__builtin_offsetof(struct vnic_reply_qp_create, qpn) == 0, "vnic_reply_qp_create.qpn");
_Static_assert(__builtin_offsetof(struct vnic_reply_qp_create, doorbell_index) == 4, "vnic_reply_qp_create.doorbell_index");

struct vnic_av {
	__u8 dgid[16];
	__le32 flow_label;
	__u8 sgid_index;
	__u8 hop_limit;
	__u8 traffic_class;
	__u8 sl;
	__u8 dmac[6];
	__le16 reserved;
};
_Static_assert(sizeof(struct vnic_av) == 32, "vnic_av");
_Static_assert(__builtin_offsetof(struct vnic_av, dgid) == 0, "vnic_av.dgid");
_Static_assert(__builtin_offsetof(struct vnic_av, flow_label) == 16, "vnic_av.flow_label");
_Static_assert(__builtin_offsetof(struct vnic_av, sgid_index) == 20, "vnic_av.sgid_index");
_Static_assert(__builtin_offsetof(struct vnic_av, hop_limit) == 21, "vnic_av.hop_limit");
_Static_assert(__builtin_offsetof(struct vnic_av, traffic_class) == 22, "vnic_av.traffic_class");
_Static_assert(__builtin_offsetof(struct vnic_av, sl) == 23, "vnic_av.sl");
_Static_assert(__builtin_offsetof(struct vnic_av, dmac) == 24, "vnic_av.dmac");
_Static_assert(__builtin_offsetof(struct vnic_av, reserved) == 30, "vnic_av.reserved");

struct vnic_qp_attr {
	__u8 state;
	__u8 cur_state;
	__u8 port;
	__u8 path_mtu;
	__le16 pkey_index;
	__u8 timeout;
	__u8 retry_cnt;
	__u8 rnr_retry;
	__u8 min_rnr_timer;
	__u8 max_rd_atomic;
	__u8 max_dest_rd_atomic;
	__le32 access;
	__le32 qkey;
	__le32 dest_qpn;
	__le32 rq_psn;
	__le32 sq_psn;
	struct vnic_av av;
};
_Static_assert(sizeof(struct vnic_qp_attr) == 64, "vnic_qp_attr");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, state) == 0, "vnic_qp_attr.state");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, cur_state) == 1, "vnic_qp_attr.cur_state");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, port) == 2, "vnic_qp_attr.port");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, path_mtu) == 3, "vnic_qp_attr.path_mtu");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, pkey_index) == 4, "vnic_qp_attr.pkey_index");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, timeout) == 6, "vnic_qp_attr.timeout");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, retry_cnt) == 7, "vnic_qp_attr.retry_cnt");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, rnr_retry) == 8, "vnic_qp_attr.rnr_retry");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, min_rnr_timer) == 9, "vnic_qp_attr.min_rnr_timer");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, max_rd_atomic) == 10, "vnic_qp_attr.max_rd_atomic");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, max_dest_rd_atomic) == 11, "vnic_qp_attr.max_dest_rd_atomic");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, access) == 12, "vnic_qp_attr.access");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, qkey) == 16, "vnic_qp_attr.qkey");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, dest_qpn) == 20, "vnic_qp_attr.dest_qpn");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, rq_psn) == 24, "vnic_qp_attr.rq_psn");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, sq_psn) == 28, "vnic_qp_attr.sq_psn");
_Static_assert(__builtin_offsetof(struct vnic_qp_attr, av) == 32, "vnic_qp_attr.av");

struct vnic_cmd_qp_modify {
	__le32 qpn;
	__le32 mask;
	struct vnic_qp_attr attr;
};
_Static_assert(sizeof(struct vnic_cmd_qp_modify) == 72, "vnic_cmd_qp_modify");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_modify, qpn) == 0, "vnic_cmd_qp_modify.qpn");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_modify, mask) == 4, "vnic_cmd_qp_modify.mask");
_Static_assert(__builtin_offsetof(struct vnic_cmd_qp_modify, attr) == 8, "vnic_cmd_qp_modify.attr");

struct vnic_cmd_page_response {
	__le32 id;
	__le32 code;
};
_Static_assert(sizeof(struct vnic_cmd_page_response) == 8, "vnic_cmd_page_response");
_Static_assert(__builtin_offsetof(struct vnic_cmd_page_response, id) == 0, "vnic_cmd_page_response.id");
_Static_assert(__builtin_offsetof(struct vnic_cmd_page_response, code) == 4, "vnic_cmd_page_response.code");

struct vnic_reply_counters {
	__le32 pasids;
	__le32 contexts;
	__le32 pds;
	__le32 mrs;
	__le32 cqs;
	__le32 qps;
	__le32 page_requests_outstanding;
	__le32 reserved;
	__le64 page_requests;
	__le64 send_requests;
	__le64 bytes;
};
_Static_assert(sizeof(struct vnic_reply_counters) == 56, "vnic_reply_counters");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, pasids) == 0, "vnic_reply_counters.pasids");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, contexts) == 4, "vnic_reply_counters.contexts");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, pds) == 8, "vnic_reply_counters.pds");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, mrs) == 12, "vnic_reply_counters.mrs");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, cqs) == 16, "vnic_reply_counters.cqs");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, qps) == 20, "vnic_reply_counters.qps");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, page_requests_outstanding) == 24, "vnic_reply_counters.page_requests_outstanding");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, reserved) == 28, "vnic_reply_counters.reserved");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, page_requests) == 32, "vnic_reply_counters.page_requests");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, send_requests) == 40, "vnic_reply_counters.send_requests");
_Static_assert(__builtin_offsetof(struct vnic_reply_counters, bytes) == 48, "vnic_reply_counters.bytes");

struct vnic_sge {
	__le64 addr;
	__le32 length;
	__le32 lkey;
};
_Static_assert(sizeof(struct vnic_sge) == 16, "vnic_sge");
_Static_assert(__builtin_offsetof(struct vnic_sge, addr) == 0, "vnic_sge.addr");
_Static_assert(__builtin_offsetof(struct vnic_sge, length) == 8, "vnic_sge.length");
_Static_assert(__builtin_offsetof(struct vnic_sge, lkey) == 12, "vnic_sge.lkey");

struct vnic_send_wqe {
	__u8 opcode;
	__u8 flags;
	__u8 num_sge;
	__u8 reserved;
	__le32 length;
	__le64 wr_id;
	__u8 imm[4];
	__le32 rkey;
	__le64 remote_addr;
};
_Static_assert(sizeof(struct vnic_send_wqe) == 32, "vnic_send_wqe");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, opcode) == 0, "vnic_send_wqe.opcode");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, flags) == 1, "vnic_send_wqe.flags");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, num_sge) == 2, "vnic_send_wqe.num_sge");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, reserved) == 3, "vnic_send_wqe.reserved");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, length) == 4, "vnic_send_wqe.length");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, wr_id) == 8, "vnic_send_wqe.wr_id");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, imm) == 16, "vnic_send_wqe.imm");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, rkey) == 20, "vnic_send_wqe.rkey");
_Static_assert(__builtin_offsetof(struct vnic_send_wqe, remote_addr) == 24, "vnic_send_wqe.remote_addr");

struct vnic_atomic_wqe {
	struct vnic_send_wqe base;
	__le64 compare_add;
	__le64 swap;
};
_Static_assert(sizeof(struct vnic_atomic_wqe) == 48, "vnic_atomic_wqe");
_Static_assert(__builtin_offsetof(struct vnic_atomic_wqe, base) == 0, "vnic_atomic_wqe.base");
_Static_assert(__builtin_offsetof(struct vnic_atomic_wqe, compare_add) == 32, "vnic_atomic_wqe.compare_add");
_Static_assert(__builtin_offsetof(struct vnic_atomic_wqe, swap) == 40, "vnic_atomic_wqe.swap");

struct vnic_recv_wqe {
	__u8 reserved0;
	__u8 flags;
	__u8 num_sge;
	__u8 reserved1[5];
	__le64 wr_id;
};
_Static_assert(sizeof(struct vnic_recv_wqe) == 16, "vnic_recv_wqe");
_Static_assert(__builtin_offsetof(struct vnic_recv_wqe, reserved0) == 0, "vnic_recv_wqe.reserved0");
_Static_assert(__builtin_offsetof(struct vnic_recv_wqe, flags) == 1, "vnic_recv_wqe.flags");
_Static_assert(__builtin_offsetof(struct vnic_recv_wqe, num_sge) == 2, "vnic_recv_wqe.num_sge");
_Static_assert(__builtin_offsetof(struct vnic_recv_wqe, reserved1) == 3, "vnic_recv_wqe.reserved1");
_Static_assert(__builtin_offsetof(struct vnic_recv_wqe, wr_id) == 8, "vnic_recv_wqe.wr_id");

struct vnic_cqe {
	__le64 wr_id;
	__le32 byte_len;
	__u8 imm[4];
	__le32 qpn;
	__le32 wqe_count;
	__le32 src_qp;
	__u8 opcode;
	__u8 status;
	__u8 reserved;
	__u8 flags;
};
_Static_assert(sizeof(struct vnic_cqe) == 32, "vnic_cqe");
_Static_assert(__builtin_offsetof(struct vnic_cqe, wr_id) == 0, "vnic_cqe.wr_id");
_Static_assert(__builtin_offsetof(struct vnic_cqe, byte_len) == 8, "vnic_cqe.byte_len");
_Static_assert(__builtin_offsetof(struct vnic_cqe, imm) == 12, "vnic_cqe.imm");
_Static_assert(__builtin_offsetof(struct vnic_cqe, qpn) == 16, "vnic_cqe.qpn");
_Static_assert(__builtin_offsetof(struct vnic_cqe, wqe_count) == 20, "vnic_cqe.wqe_count");
_Static_assert(__builtin_offsetof(struct vnic_cqe, src_qp) == 24, "vnic_cqe.src_qp");
_Static_assert(__builtin_offsetof(struct vnic_cqe, opcode) == 28, "vnic_cqe.opcode");
_Static_assert(__builtin_offsetof(struct vnic_cqe, status) == 29, "vnic_cqe.status");
_Static_assert(__builtin_offsetof(struct vnic_cqe, reserved) == 30, "vnic_cqe.reserved");
_Static_assert(__builtin_offsetof(struct vnic_cqe, flags) == 31, "vnic_cqe.flags");

struct vnic_cq_control {
	__le32 consumer;
	__le32 reserved0[15];
	__le32 arm;
	__le32 reserved1[15];
};
_Static_assert(sizeof(struct vnic_cq_control) == 128, "vnic_cq_control");
_Static_assert(__builtin_offsetof(struct vnic_cq_control, consumer) == 0, "vnic_cq_control.consumer");
_Static_assert(__builtin_offsetof(struct vnic_cq_control, reserved0) == 4, "vnic_cq_control.reserved0");
_Static_assert(__builtin_offsetof(struct vnic_cq_control, arm) == 64, "vnic_cq_control.arm");
_Static_assert(__builtin_offsetof(struct vnic_cq_control, reserved1) == 68, "vnic_cq_control.reserved1");

struct vnic_doorbell_page {
	__le32 need_kick;
	__le32 reserved0[15];
	__le64 bitmap[256];
	__le64 reserved1[248];
};
_Static_assert(sizeof(struct vnic_doorbell_page) == 4096, "vnic_doorbell_page");
_Static_assert(__builtin_offsetof(struct vnic_doorbell_page, need_kick) == 0, "vnic_doorbell_page.need_kick");
_Static_assert(__builtin_offsetof(struct vnic_doorbell_page, reserved0) == 4, "vnic_doorbell_page.reserved0");
_Static_assert(__builtin_offsetof(struct vnic_doorbell_page, bitmap) == 64, "vnic_doorbell_page.bitmap");
_Static_assert(__builtin_offsetof(struct vnic_doorbell_page, reserved1) == 2112, "vnic_doorbell_page.reserved1");

struct vnic_qp_control {
	__le32 rq_wants_doorbell;
	__le32 reserved[15];
};
_Static_assert(sizeof(struct vnic_qp_control) == 64, "vnic_qp_control");
_Static_assert(__builtin_offsetof(struct vnic_qp_control, rq_wants_doorbell) == 0, "vnic_qp_control.rq_wants_doorbell");
_Static_assert(__builtin_offsetof(struct vnic_qp_control, reserved) == 4, "vnic_qp_control.reserved");

struct vnic_epoch_slot {
	__le64 epoch;
	__le64 reserved[7];
};
_Static_assert(sizeof(struct vnic_epoch_slot) == 64, "vnic_epoch_slot");
_Static_assert(__builtin_offsetof(struct vnic_epoch_slot, epoch) == 0, "vnic_epoch_slot.epoch");
_Static_assert(__builtin_offsetof(struct vnic_epoch_slot, reserved) == 8, "vnic_epoch_slot.reserved");

struct vnic_invalidation_range {
	__le64 start;
	__le64 end;
};
_Static_assert(sizeof(struct vnic_invalidation_range) == 16, "vnic_invalidation_range");
_Static_assert(__builtin_offsetof(struct vnic_invalidation_range, start) == 0, "vnic_invalidation_range.start");
_Static_assert(__builtin_offsetof(struct vnic_invalidation_range, end) == 8, "vnic_invalidation_range.end");

struct vnic_invalidation_page {
	__le64 generation;
	__le64 acknowledged;
	__le32 reserved0[12];
	struct vnic_invalidation_range ring[32];
};
_Static_assert(sizeof(struct vnic_invalidation_page) == 576, "vnic_invalidation_page");
_Static_assert(__builtin_offsetof(struct vnic_invalidation_page, generation) == 0, "vnic_invalidation_page.generation");
_Static_assert(__builtin_offsetof(struct vnic_invalidation_page, acknowledged) == 8, "vnic_invalidation_page.acknowledged");
_Static_assert(__builtin_offsetof(struct vnic_invalidation_page, reserved0) == 16, "vnic_invalidation_page.reserved0");
_Static_assert(__builtin_offsetof(struct vnic_invalidation_page, ring) == 64, "vnic_invalidation_page.ring");

struct vnic_event {
	__le32 kind;
	__le32 object;
	__le64 cookie;
};
_Static_assert(sizeof(struct vnic_event) == 16, "vnic_event");
_Static_assert(__builtin_offsetof(struct vnic_event, kind) == 0, "vnic_event.kind");
_Static_assert(__builtin_offsetof(struct vnic_event, object) == 4, "vnic_event.object");
_Static_assert(__builtin_offsetof(struct vnic_event, cookie) == 8, "vnic_event.cookie");

struct vnic_page_request {
	__le32 id;
	__le32 pasid;
	__le64 start;
	__le64 length;
	__le32 access;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_page_request) == 32, "vnic_page_request");
_Static_assert(__builtin_offsetof(struct vnic_page_request, id) == 0, "vnic_page_request.id");
_Static_assert(__builtin_offsetof(struct vnic_page_request, pasid) == 4, "vnic_page_request.pasid");
_Static_assert(__builtin_offsetof(struct vnic_page_request, start) == 8, "vnic_page_request.start");
_Static_assert(__builtin_offsetof(struct vnic_page_request, length) == 16, "vnic_page_request.length");
_Static_assert(__builtin_offsetof(struct vnic_page_request, access) == 24, "vnic_page_request.access");
_Static_assert(__builtin_offsetof(struct vnic_page_request, reserved) == 28, "vnic_page_request.reserved");

struct vnic_uverbs_context_resp {
	__le64 doorbell_offset;
	__le64 kick_offset;
	__le32 kick_register;
	__le32 kick_value;
	__le32 max_inline;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_uverbs_context_resp) == 32, "vnic_uverbs_context_resp");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_context_resp, doorbell_offset) == 0, "vnic_uverbs_context_resp.doorbell_offset");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_context_resp, kick_offset) == 8, "vnic_uverbs_context_resp.kick_offset");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_context_resp, kick_register) == 16, "vnic_uverbs_context_resp.kick_register");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_context_resp, kick_value) == 20, "vnic_uverbs_context_resp.kick_value");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_context_resp, max_inline) == 24, "vnic_uverbs_context_resp.max_inline");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_context_resp, reserved) == 28, "vnic_uverbs_context_resp.reserved");

struct vnic_uverbs_cq_resp {
	__le64 mmap_offset;
	__le64 mmap_length;
	__le32 depth;
	__le32 handle;
};
_Static_assert(sizeof(struct vnic_uverbs_cq_resp) == 24, "vnic_uverbs_cq_resp");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_cq_resp, mmap_offset) == 0, "vnic_uverbs_cq_resp.mmap_offset");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_cq_resp, mmap_length) == 8, "vnic_uverbs_cq_resp.mmap_length");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_cq_resp, depth) == 16, "vnic_uverbs_cq_resp.depth");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_cq_resp, handle) == 20, "vnic_uverbs_cq_resp.handle");

struct vnic_uverbs_qp_resp {
	__le64 mmap_offset;
	__le64 mmap_length;
	__le32 sq_depth;
	__le32 sq_stride;
	__le32 rq_offset;
	__le32 rq_depth;
	__le32 rq_stride;
	__le32 doorbell_index;
	__le32 max_inline;
	__le32 max_send_sge;
	__le32 max_recv_sge;
	__le32 reserved;
};
_Static_assert(sizeof(struct vnic_uverbs_qp_resp) == 56, "vnic_uverbs_qp_resp");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, mmap_offset) == 0, "vnic_uverbs_qp_resp.mmap_offset");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, mmap_length) == 8, "vnic_uverbs_qp_resp.mmap_length");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, sq_depth) == 16, "vnic_uverbs_qp_resp.sq_depth");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, sq_stride) == 20, "vnic_uverbs_qp_resp.sq_stride");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, rq_offset) == 24, "vnic_uverbs_qp_resp.rq_offset");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, rq_depth) == 28, "vnic_uverbs_qp_resp.rq_depth");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, rq_stride) == 32, "vnic_uverbs_qp_resp.rq_stride");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, doorbell_index) == 36, "vnic_uverbs_qp_resp.doorbell_index");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, max_inline) == 40, "vnic_uverbs_qp_resp.max_inline");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, max_send_sge) == 44, "vnic_uverbs_qp_resp.max_send_sge");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, max_recv_sge) == 48, "vnic_uverbs_qp_resp.max_recv_sge");
_Static_assert(__builtin_offsetof(struct vnic_uverbs_qp_resp, reserved) == 52, "vnic_uverbs_qp_resp.reserved");

#endif
