// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Protection domains, and thread domains: a promise to use objects from one thread at a time, which
//! a parent domain carries to the queues that are made in it.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::errno::{Errno, to_code, to_pointer};
use crate::ffi::{
    ib_uverbs_alloc_pd_resp, ibv_alloc_pd, ibv_cmd_alloc_pd, ibv_cmd_dealloc_pd, ibv_context,
    ibv_parent_domain_init_attr, ibv_pd, ibv_td, ibv_td_init_attr,
};

/// A protection domain; libibverbs' part comes first.
#[repr(C)]
struct Pd {
    verbs: UnsafeCell<ibv_pd>,
    /// The domain that a parent domain stands for; null if this is no parent domain.
    contained: *const Pd,
    /// The thread domain of a parent domain, or null.
    td: *const Td,
    /// Parent domains that stand for this one.
    users: AtomicUsize,
}

/// A thread domain; libibverbs' part comes first.
#[repr(C)]
struct Td {
    verbs: UnsafeCell<ibv_td>,
    /// Parent domains that use this one.
    users: AtomicUsize,
}

/// Whether the program promised to use what it makes in `pd` from one thread at a time.
///
/// # Safety
/// `pd` is null, or a domain of this library.
pub(crate) unsafe fn is_single_threaded(pd: *mut ibv_pd) -> bool {
    // SAFETY: a domain of this library is a `Pd`.
    !pd.is_null() && !unsafe { &*pd.cast::<Pd>() }.td.is_null()
}

pub(crate) unsafe extern "C" fn alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    let pd = Box::new(Pd {
        verbs: UnsafeCell::default(),
        contained: ptr::null(),
        td: ptr::null(),
        users: AtomicUsize::new(0),
    });
    let mut cmd = ibv_alloc_pd::default();
    let mut resp = ib_uverbs_alloc_pd_resp::default();
    // SAFETY: an open context by the caller's contract, and structures with their sizes.
    let outcome = Errno::check(unsafe {
        ibv_cmd_alloc_pd(
            context,
            pd.verbs.get(),
            &mut cmd,
            size_of_val(&cmd),
            &mut resp,
            size_of_val(&resp),
        )
    });
    to_pointer(outcome.map(|()| Box::into_raw(pd).cast()))
}

pub(crate) unsafe extern "C" fn dealloc_pd(pd: *mut ibv_pd) -> c_int {
    // SAFETY: a domain of this library, by the caller's contract.
    to_code(unsafe { dealloc(pd.cast()) })
}

/// # Safety
/// `pd` was made by this library, and is not used again if this succeeds.
unsafe fn dealloc(pd: *mut Pd) -> Result<(), Errno> {
    // SAFETY: the caller's.
    let this = unsafe { &*pd };
    // Relaxed, as all of the counts: they order nothing, and a program that frees a domain in one
    // thread while another one makes use of it has no defined outcome.
    if this.users.load(Ordering::Relaxed) != 0 {
        return Err(Errno::BUSY);
    }
    if this.contained.is_null() {
        // SAFETY: the domain's own part, which the kernel knows.
        Errno::check(unsafe { ibv_cmd_dealloc_pd(this.verbs.get()) })?;
    } else {
        // SAFETY: counted in `alloc_parent_domain`, and so alive.
        unsafe { &*this.contained }.users.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: as above, if there is one.
        if let Some(td) = unsafe { this.td.as_ref() } {
            td.users.fetch_sub(1, Ordering::Relaxed);
        }
    }
    // SAFETY: made by `Box::into_raw`; the caller uses it no more.
    drop(unsafe { Box::from_raw(pd) });
    Ok(())
}

pub(crate) unsafe extern "C" fn alloc_td(
    context: *mut ibv_context,
    attr: *mut ibv_td_init_attr,
) -> *mut ibv_td {
    // SAFETY: the attributes are the caller's.
    if unsafe { (*attr).comp_mask } != 0 {
        return to_pointer(Err(Errno::OPNOTSUPP));
    }
    let td = Td { verbs: UnsafeCell::new(ibv_td { context }), users: AtomicUsize::new(0) };
    to_pointer(Ok(Box::into_raw(Box::new(td)).cast()))
}

pub(crate) unsafe extern "C" fn dealloc_td(td: *mut ibv_td) -> c_int {
    let td: *mut Td = td.cast();
    // SAFETY: a thread domain of this library, by the caller's contract.
    if unsafe { &*td }.users.load(Ordering::Relaxed) != 0 {
        return libc::EBUSY;
    }
    // SAFETY: made by `alloc_td`; the caller uses it no more.
    drop(unsafe { Box::from_raw(td) });
    0
}

pub(crate) unsafe extern "C" fn alloc_parent_domain(
    _context: *mut ibv_context,
    attr: *mut ibv_parent_domain_init_attr,
) -> *mut ibv_pd {
    // SAFETY: the attributes are the caller's.
    let attr = unsafe { &*attr };
    if attr.pd.is_null() {
        return to_pointer(Err(Errno::INVAL));
    }
    if attr.comp_mask != 0 {
        return to_pointer(Err(Errno::OPNOTSUPP));
    }
    let contained: *const Pd = attr.pd.cast();
    let td: *const Td = attr.td.cast();
    // SAFETY: the caller's domains, made by this library.
    let verbs = unsafe {
        (*contained).users.fetch_add(1, Ordering::Relaxed);
        if let Some(td) = td.as_ref() {
            td.users.fetch_add(1, Ordering::Relaxed);
        }
        // To the kernel it is the domain that it contains.
        ibv_pd { context: (*attr.pd).context, handle: (*attr.pd).handle }
    };
    let pd = Pd { verbs: UnsafeCell::new(verbs), contained, td, users: AtomicUsize::new(0) };
    to_pointer(Ok(Box::into_raw(Box::new(pd)).cast()))
}
