// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The provider's operations, with a stand-in for libibverbs and the kernel, and a small device.

#[path = "../../../verbs/tests/device/mod.rs"]
mod device;
mod events;
mod extended;
mod kernel;
mod lifetime;
mod posting;

use core::ptr;
use std::marker::PhantomPinned;

use crate::ffi::*;
use crate::{context, cq, pd, qp};
use kernel::Kernel;

/// An open context with a domain, a completion queue and a queue pair that may send.
struct Rig {
    kernel: Kernel,
    context: *mut ibv_context,
    pd: *mut ibv_pd,
    cq: *mut ibv_cq,
    qp: *mut ibv_qp,
    _pinned: PhantomPinned,
}

/// How a rig is made.
#[derive(Clone, Copy, Default)]
struct Wish {
    /// Operations of the extended interface, if it is wanted.
    send_ops: Option<u64>,
    extended_cq: bool,
}

/// An open context, and nothing in it.
fn open() -> (Kernel, *mut ibv_context) {
    let kernel = Kernel::new();
    // SAFETY: the stand-in takes no device.
    let verbs = unsafe { context::open(ptr::null_mut(), kernel.fd(), ptr::null_mut()) };
    assert!(!verbs.is_null());
    // SAFETY: opened above.
    (kernel, unsafe { &raw mut (*verbs).context })
}

/// Closes a context as libibverbs does.
fn close(context: *mut ibv_context) {
    let close = kernel::operations().free_context.expect("not set");
    // SAFETY: opened by the test, closed once.
    unsafe { close(context) }
}

fn qp_attr(pd: *mut ibv_pd, cq: *mut ibv_cq) -> ibv_qp_init_attr_ex {
    ibv_qp_init_attr_ex {
        send_cq: cq,
        recv_cq: cq,
        qp_type: IBV_QPT_RC,
        cap: ibv_qp_cap {
            max_send_wr: 4,
            max_recv_wr: 4,
            max_send_sge: 2,
            max_recv_sge: 2,
            max_inline_data: 32,
        },
        comp_mask: IBV_QP_INIT_ATTR_PD,
        pd,
        ..Default::default()
    }
}

impl Rig {
    fn new(wish: Wish) -> Self {
        let (kernel, context) = open();
        // SAFETY: valid arguments for each operation.
        unsafe {
            let pd = pd::alloc_pd(context);
            let cq = if wish.extended_cq {
                let mut attr = ibv_cq_init_attr_ex { cqe: 8, ..Default::default() };
                cq::create_cq_ex(context, &mut attr).cast()
            } else {
                cq::create_cq(context, 8, ptr::null_mut(), 0)
            };
            let mut attr = qp_attr(pd, cq);
            if let Some(operations) = wish.send_ops {
                attr.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
                attr.send_ops_flags = operations;
            }
            let qp = qp::create_qp_ex(context, &mut attr);
            assert!(!pd.is_null() && !cq.is_null() && !qp.is_null());
            (*qp).state = IBV_QPS_RTS;
            Self { kernel, context, pd, cq, qp, _pinned: PhantomPinned }
        }
    }

    fn qpn(&self) -> u32 {
        // SAFETY: the rig's own queue pair.
        unsafe { (*self.qp).qp_num }
    }

    /// Polls with `ibv_poll_cq`.
    fn poll(&self, max: usize) -> Vec<ibv_wc> {
        let mut out: Vec<ibv_wc> = (0..max).map(|_| ibv_wc::default()).collect();
        // SAFETY: room for `max`.
        let n = unsafe { crate::poll::poll_cq(self.cq, max as i32, out.as_mut_ptr()) };
        out.truncate(n as usize);
        out
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // SAFETY: the rig's own objects, in the order that the verbs want.
        unsafe {
            if !self.qp.is_null() {
                assert_eq!(qp::destroy_qp(self.qp), 0);
            }
            assert_eq!(cq::destroy_cq(self.cq), 0);
            assert_eq!(pd::dealloc_pd(self.pd), 0);
        }
        close(self.context);
        if !std::thread::panicking() {
            assert_eq!(self.kernel.objects(), 0, "objects are left in the kernel");
        }
    }
}
