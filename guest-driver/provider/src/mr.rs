// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory regions. The kernel module pins nothing, so that this costs the same for every size.

use core::ffi::{c_int, c_void};

use crate::errno::{Errno, to_code, to_pointer};
use crate::ffi::{
    ib_uverbs_advise_mr_advice, ib_uverbs_reg_mr_resp, ib_uverbs_rereg_mr_resp, ibv_cmd_advise_mr,
    ibv_cmd_dereg_mr, ibv_cmd_reg_mr, ibv_cmd_rereg_mr, ibv_mr, ibv_pd, ibv_reg_mr, ibv_rereg_mr,
    ibv_sge, verbs_mr,
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

/// Changes a region. `flags` say which of the rest counts; the keys stay.
pub(crate) unsafe extern "C" fn rereg_mr(
    mr: *mut verbs_mr,
    flags: c_int,
    pd: *mut ibv_pd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> c_int {
    let mut cmd = ibv_rereg_mr::default();
    let mut resp = ib_uverbs_rereg_mr_resp::default();
    // The access that is kept in `mr` stays that of the registration: by it libibverbs knows, when the
    // region ends, whether it had taken the memory away from children of the process.
    //
    // SAFETY: a region of this library, by the caller's contract; a domain, if the flags name one; and
    // structures with their sizes. The memory is not touched.
    to_code(Errno::check(unsafe {
        ibv_cmd_rereg_mr(
            mr,
            flags.cast_unsigned(),
            addr,
            length,
            addr.addr() as u64,
            access,
            pd,
            &mut cmd,
            size_of_val(&cmd),
            &mut resp,
            size_of_val(&resp),
        )
    }))
}

/// Tells the kernel what is going to be used.
pub(crate) unsafe extern "C" fn advise_mr(
    pd: *mut ibv_pd,
    advice: ib_uverbs_advise_mr_advice,
    flags: u32,
    list: *mut ibv_sge,
    count: u32,
) -> c_int {
    // SAFETY: the caller's domain and list, as they are.
    to_code(Errno::check(unsafe { ibv_cmd_advise_mr(pd, advice, flags, list, count) }))
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
