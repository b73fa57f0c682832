/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels this module is built for: 6.12 and 7.3.
 * Nothing else in the module looks at a version.
 */
#ifndef VNIC_COMPAT_H
#define VNIC_COMPAT_H

#include <linux/version.h>
#include <rdma/ib_verbs.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
#define VNIC_HAVE_DMAH 1
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
/* The RDMA core turns link events of the paired netdev into port events. */
#define VNIC_CORE_REPORTS_PORT 1
#else
#define VNIC_CORE_REPORTS_PORT 0
#endif

/* Declares reg_user_mr with the parameters that this kernel passes. */
#ifdef VNIC_HAVE_DMAH
#define VNIC_REG_USER_MR(name)						\
	struct ib_mr *name(struct ib_pd *ibpd, u64 start, u64 length,	\
			   u64 iova, int access, struct ib_dmah *dmah,	\
			   struct ib_udata *udata)
#define VNIC_REG_USER_MR_HAS_DMAH (dmah != NULL)
#else
#define VNIC_REG_USER_MR(name)						\
	struct ib_mr *name(struct ib_pd *ibpd, u64 start, u64 length,	\
			   u64 iova, int access, struct ib_udata *udata)
#define VNIC_REG_USER_MR_HAS_DMAH false
#endif

#endif
