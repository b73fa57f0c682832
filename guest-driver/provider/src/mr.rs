// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory regions. The kernel module pins nothing, so that this costs the same for every size.

use core::ffi::{c_int, c_void};

use crate::errno::{Errno, to_code, to_pointer};
use crate::ffi::{
    ib_uverbs_reg_mr_resp, ibv_cmd_dereg_mr, ibv_cmd_reg_mr, ibv_mr, ibv_pd, ibv_reg_mr, verbs_mr,
};

pub(crate) unsafe extern "C" fn reg_mr(
    pd: *mut ibv_pd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_int,
) -> *mut ibv_mr {
    let mut mr = Box::<verbs_mr>::default();
    let mut cmd = ibv_reg_mr::default();
    let mut resp = ib_uverbs_reg_mr_resp::default();
    // SAFETY: the caller's domain, and structures with their sizes. The memory is not touched.
    let outcome = Errno::check(unsafe {
        ibv_cmd_reg_mr(
            pd,
            addr,
            length,
            iova,
            access,
            &raw mut *mr,
            &mut cmd,
            size_of_val(&cmd),
            &mut resp,
            size_of_val(&resp),
        )
    });
    // The program's `ibv_mr` is the first field.
    to_pointer(outcome.map(|()| Box::into_raw(mr).cast()))
}

pub(crate) unsafe extern "C" fn dereg_mr(mr: *mut verbs_mr) -> c_int {
    // SAFETY: a region of this library, by the caller's contract.
    let outcome = Errno::check(unsafe { ibv_cmd_dereg_mr(mr) });
    if outcome.is_ok() {
        // SAFETY: made by `reg_mr`, and gone in the kernel: nobody uses it again.
        drop(unsafe { Box::from_raw(mr) });
    }
    to_code(outcome)
}

const _: () = assert!(core::mem::offset_of!(verbs_mr, ibv_mr) == 0);
