// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An open device: the doorbell page, the kick register, and the table of queue pairs.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_void};
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use std::io::Write;

use vnic_abi::PAGE_SIZE;
use vnic_abi::uverbs::ContextResp;
use vnic_verbs::{Doorbell, MmioKick};

use crate::errno::{Errno, to_code, to_pointer};
use crate::ffi::{
    _verbs_init_and_alloc_context, RDMA_DRIVER_UNKNOWN, ib_uverbs_ex_query_device_resp,
    ib_uverbs_get_context_resp, ibv_cmd_get_context, ibv_cmd_query_device_any, ibv_cmd_query_port,
    ibv_context, ibv_device, ibv_device_attr_ex, ibv_get_context, ibv_port_attr,
    ibv_query_device_ex_input, ibv_query_port, verbs_context, verbs_context_ops, verbs_set_ops,
    verbs_uninit_context,
};
use crate::mapping::{Access, Mapping};
use crate::qp::QpPath;
use crate::table::Table;
use crate::{cq, mr, pd, poll, post, qp};

/// A context as libibverbs allocates it; its own part comes first.
#[repr(C)]
pub(crate) struct Context {
    verbs: UnsafeCell<verbs_context>,
    path: ContextPath,
}

/// What the data path needs of a context.
pub(crate) struct ContextPath {
    pub(crate) doorbell: Doorbell<MmioKick>,
    /// Queue pairs by number, for completions.
    pub(crate) qps: Table<QpPath>,
    /// Under `doorbell`, and unmapped after it.
    _doorbell_page: Mapping,
    _kick_page: Mapping,
}

impl Context {
    /// The context that `context` is part of.
    ///
    /// # Safety
    /// `context` came from [`open`] and is not closed while the result is used.
    pub(crate) unsafe fn of<'a>(context: *mut ibv_context) -> &'a Self {
        // SAFETY: `open` gave libibverbs the address of this field of a `Context`.
        unsafe { &*context.byte_sub(offset_of!(verbs_context, context)).cast() }
    }

    pub(crate) fn path(&self) -> &ContextPath {
        &self.path
    }
}

/// Operations that are absent answer `EOPNOTSUPP`, which is libibverbs' own default. That is so for
/// events too, where nothing is left to do: the device disarms a completion queue itself.
const OPERATIONS: verbs_context_ops = {
    // SAFETY: a structure of optional function pointers; zero is none.
    let mut ops: verbs_context_ops = unsafe { core::mem::zeroed() };
    ops.advise_mr = Some(mr::advise_mr);
    ops.alloc_parent_domain = Some(pd::alloc_parent_domain);
    ops.alloc_pd = Some(pd::alloc_pd);
    ops.alloc_td = Some(pd::alloc_td);
    ops.create_cq = Some(cq::create_cq);
    ops.create_cq_ex = Some(cq::create_cq_ex);
    ops.create_qp = Some(qp::create_qp);
    ops.create_qp_ex = Some(qp::create_qp_ex);
    ops.dealloc_pd = Some(pd::dealloc_pd);
    ops.dealloc_td = Some(pd::dealloc_td);
    ops.dereg_mr = Some(mr::dereg_mr);
    ops.destroy_cq = Some(cq::destroy_cq);
    ops.destroy_qp = Some(qp::destroy_qp);
    ops.free_context = Some(close);
    ops.modify_qp = Some(qp::modify_qp);
    ops.poll_cq = Some(poll::poll_cq);
    ops.post_recv = Some(post::post_recv);
    ops.post_send = Some(post::post_send);
    ops.query_device_ex = Some(query_device_ex);
    ops.query_port = Some(query_port);
    ops.query_qp = Some(qp::query_qp);
    ops.reg_mr = Some(mr::reg_mr);
    ops.req_notify_cq = Some(cq::req_notify_cq);
    ops.rereg_mr = Some(mr::rereg_mr);
    ops
};

/// The answer to "get context", with the kernel module's part.
#[repr(C)]
#[derive(Default)]
struct GetContextResp {
    core: ib_uverbs_get_context_resp,
    vnic: ContextResp,
}

/// Opens a device for libibverbs, which owns `cmd_fd` until this succeeds.
pub(crate) unsafe extern "C" fn open(
    device: *mut ibv_device,
    cmd_fd: c_int,
    _private_data: *mut c_void,
) -> *mut verbs_context {
    let offset = ptr::without_provenance_mut(offset_of!(Context, verbs));
    // SAFETY: the size and offset are those of `Context`; the rest is the caller's.
    let context = unsafe {
        _verbs_init_and_alloc_context(
            device,
            cmd_fd,
            size_of::<Context>(),
            offset,
            RDMA_DRIVER_UNKNOWN,
        )
    }
    .cast::<Context>();
    if context.is_null() {
        // libibverbs has set errno.
        return ptr::null_mut();
    }
    // SAFETY: a new context, initialised by libibverbs; its own part is a field of it.
    let verbs = unsafe { UnsafeCell::raw_get(&raw const (*context).verbs) };
    // SAFETY: `verbs` is the context that libibverbs made above.
    match unsafe { get_context(verbs, cmd_fd) } {
        Ok(path) => {
            // SAFETY: the field is memory of the new context that nobody has used.
            unsafe { (&raw mut (*context).path).write(path) };
            // SAFETY: both are valid; libibverbs copies the operations.
            unsafe { verbs_set_ops(verbs, &OPERATIONS) };
            verbs
        }
        Err(error) => {
            // SAFETY: made above, given to nobody; libibverbs allocated it with malloc.
            unsafe {
                verbs_uninit_context(verbs);
                libc::free(context.cast());
            }
            to_pointer(Err(error))
        }
    }
}

/// Opens the context in the kernel and maps its pages.
///
/// # Safety
/// `verbs` is a new context on the device file `fd`.
unsafe fn get_context(verbs: *mut verbs_context, fd: c_int) -> Result<ContextPath, Errno> {
    let mut cmd = ibv_get_context::default();
    let mut resp = GetContextResp::default();
    // SAFETY: the sizes are those of the structures, and the core part of the response is the first.
    Errno::check(unsafe {
        ibv_cmd_get_context(
            verbs,
            &mut cmd,
            size_of_val(&cmd),
            (&raw mut resp).cast(),
            size_of_val(&resp),
        )
    })?;
    let resp = resp.vnic;
    let doorbell_page = Mapping::new(fd, resp.doorbell_offset.get(), PAGE_SIZE, Access::ReadWrite)?;
    let kick_page = Mapping::new(fd, resp.kick_offset.get(), PAGE_SIZE, Access::Write)?;
    let register: NonNull<u16> =
        kick_page.range(resp.kick_register.get().into(), size_of::<u16>() as u64)?.cast();
    let value = u16::try_from(resp.kick_value.get()).map_err(|_| Errno::PROTO)?;
    if !register.is_aligned() {
        return Err(Errno::PROTO);
    }
    // SAFETY: the pages are mapped for as long as the context is open. The kernel module says which
    // register notifies the device, and by which value.
    let doorbell = unsafe {
        Doorbell::new(doorbell_page.range(0, PAGE_SIZE)?, MmioKick::new(register, value))
    };
    Ok(ContextPath {
        doorbell,
        qps: Table::new(),
        _doorbell_page: doorbell_page,
        _kick_page: kick_page,
    })
}

/// Closes a context.
unsafe extern "C" fn close(context: *mut ibv_context) {
    // SAFETY: libibverbs closes what `open` made, once, and the program uses it no more.
    unsafe {
        let context: *mut Context = ptr::from_ref(Context::of(context)).cast_mut();
        ptr::drop_in_place(&raw mut (*context).path);
        verbs_uninit_context((*context).verbs.get());
        libc::free(context.cast());
    }
}

unsafe extern "C" fn query_device_ex(
    context: *mut ibv_context,
    input: *const ibv_query_device_ex_input,
    attr: *mut ibv_device_attr_ex,
    attr_size: usize,
) -> c_int {
    let mut resp = ib_uverbs_ex_query_device_resp::default();
    let mut resp_size = size_of_val(&resp);
    // SAFETY: the caller's pointers as they are, and a response with its size.
    let outcome = Errno::check(unsafe {
        ibv_cmd_query_device_any(context, input, attr, attr_size, &mut resp, &mut resp_size)
    });
    if outcome.is_ok() {
        // SAFETY: the call above filled at least the original attributes.
        let text = unsafe { &mut (*attr).orig_attr.fw_ver };
        write_version(resp.base.fw_ver, text);
    }
    to_code(outcome)
}

/// Writes a version of three 16-bit numbers as text, ended by zero.
fn write_version(version: u64, text: &mut [c_char; 64]) {
    let [_, major, minor, patch] = [48, 32, 16, 0].map(|shift| (version >> shift) as u16);
    let mut bytes = [0u8; 64];
    // Three numbers of at most five digits fit.
    let _ = write!(&mut bytes[..63], "{major}.{minor}.{patch}");
    *text = bytes.map(|byte| byte as c_char);
}

unsafe extern "C" fn query_port(
    context: *mut ibv_context,
    port: u8,
    attr: *mut ibv_port_attr,
) -> c_int {
    let mut cmd = ibv_query_port::default();
    // SAFETY: the caller's pointers as they are, and a command with its size.
    unsafe { ibv_cmd_query_port(context, port, attr, &mut cmd, size_of_val(&cmd)) }
}
