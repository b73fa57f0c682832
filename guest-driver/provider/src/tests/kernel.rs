// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A stand-in for libibverbs and the kernel module: the functions that the provider calls, over a
//! memory file in the place of the device file.

use core::ffi::{c_int, c_void};
use core::ptr::NonNull;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use vnic_abi::uverbs::{ContextResp, CqResp, QpResp};
use zerocopy::IntoBytes;

use super::device::Memory;
use crate::ffi::*;

/// Bytes of the memory file.
const FILE: usize = 1 << 20;
/// Where the kick register lies in the second page.
const KICK_REGISTER: usize = 0x80;
pub const KICK_VALUE: u16 = 3;

/// What the kernel holds for one open device.
#[derive(Default)]
struct State {
    next_offset: u64,
    qpns: Vec<u32>,
    objects: usize,
    created: u32,
    /// Number for the next queue pair, instead of one of its own.
    pub force_qpn: Option<u32>,
    /// The next call fails with this.
    pub fail: Option<c_int>,
    /// The next object's memory is said to be this short.
    pub short_mapping: Option<u64>,
    /// The next completion queue is said to have this depth.
    pub depth: Option<u32>,
    /// What the last command was to do, for those that have no other effect.
    pub asked: String,
}

fn states() -> &'static Mutex<HashMap<c_int, State>> {
    static STATES: OnceLock<Mutex<HashMap<c_int, State>>> = OnceLock::new();
    STATES.get_or_init(Mutex::default)
}

fn with<R>(fd: c_int, f: impl FnOnce(&mut State) -> R) -> R {
    let mut states = states().lock().unwrap_or_else(PoisonError::into_inner);
    f(states.entry(fd).or_default())
}

/// The test's view of one open device.
pub struct Kernel {
    fd: c_int,
    base: NonNull<u8>,
}

impl Kernel {
    pub fn new() -> Self {
        // SAFETY: a new file of our own, and a mapping of it.
        unsafe {
            let fd = libc::memfd_create(c"vnic".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0 && libc::ftruncate(fd, FILE as i64) == 0);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let base = libc::mmap(core::ptr::null_mut(), FILE, access, libc::MAP_SHARED, fd, 0);
            assert_ne!(base, libc::MAP_FAILED);
            with(fd, |state| *state = State { next_offset: 8192, ..State::default() });
            Self { fd, base: NonNull::new(base.cast()).unwrap() }
        }
    }

    pub fn fd(&self) -> c_int {
        self.fd
    }

    /// The device's view of memory from `offset`.
    pub fn memory(&self, offset: usize) -> Memory {
        // SAFETY: inside the mapping, which the caller's memory does not outlive.
        unsafe { Memory::borrowed(self.base.add(offset), FILE - offset) }
    }

    /// The doorbell bits of the first 64 queue pairs, which are taken.
    pub fn take_doorbells(&self) -> u64 {
        self.memory(0).word64(64).swap(0, std::sync::atomic::Ordering::SeqCst)
    }

    pub fn sleep(&self, sleeps: bool) {
        self.memory(0).word32(0).store(sleeps.into(), std::sync::atomic::Ordering::SeqCst);
    }

    /// What was last written to the kick register; it is cleared.
    pub fn take_kick(&self) -> u16 {
        let page = self.memory(4096);
        let value = page.copy_out(KICK_REGISTER, 2);
        page.copy_in(KICK_REGISTER, &[0, 0]);
        u16::from_le_bytes([value[0], value[1]])
    }

    pub fn objects(&self) -> usize {
        with(self.fd, |state| state.objects)
    }

    pub fn asked(&self) -> String {
        with(self.fd, |state| state.asked.clone())
    }

    pub fn fail_next(&self, errno: c_int) {
        with(self.fd, |state| state.fail = Some(errno));
    }

    pub fn shorten_next(&self, length: u64) {
        with(self.fd, |state| state.short_mapping = Some(length));
    }

    pub fn next_depth(&self, depth: u32) {
        with(self.fd, |state| state.depth = Some(depth));
    }

    pub fn next_qpn(&self, qpn: u32) {
        with(self.fd, |state| state.force_qpn = Some(qpn));
    }

    /// Where the memory of the `n`th object with memory begins.
    pub fn object(n: usize) -> usize {
        8192 + n * OBJECT
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`. The file itself was closed with the context.
        unsafe { libc::munmap(self.base.as_ptr().cast(), FILE) };
    }
}

/// Bytes that every object's memory takes.
const OBJECT: usize = 16384;

impl State {
    fn allocate(&mut self) -> (u64, u64) {
        let offset = self.next_offset;
        self.next_offset += OBJECT as u64;
        (offset, self.short_mapping.take().unwrap_or(OBJECT as u64))
    }
}

/// Runs a command: fails if that was ordered.
unsafe fn command(context: *mut ibv_context, f: impl FnOnce(&mut State)) -> c_int {
    // SAFETY: the provider's context.
    let fd = unsafe { (*context).cmd_fd };
    with(fd, |state| match state.fail.take() {
        Some(errno) => errno,
        None => {
            f(state);
            0
        }
    })
}

/// Writes the kernel module's part behind the core's part of a response.
unsafe fn respond<C>(resp: *mut C, size: usize, vnic: &[u8]) {
    assert_eq!(size, size_of::<C>() + vnic.len());
    // SAFETY: the provider gave `size` bytes.
    unsafe { core::ptr::copy_nonoverlapping(vnic.as_ptr(), resp.add(1).cast(), vnic.len()) }
}

fn installed() -> &'static Mutex<Option<verbs_context_ops>> {
    static OPERATIONS: Mutex<Option<verbs_context_ops>> = Mutex::new(None);
    &OPERATIONS
}

/// The operations that the provider gave to libibverbs.
pub fn operations() -> verbs_context_ops {
    installed().lock().unwrap().expect("no context was opened")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn _verbs_init_and_alloc_context(
    device: *mut ibv_device,
    cmd_fd: c_int,
    size: usize,
    offset: *mut verbs_context,
    _driver: u32,
) -> *mut c_void {
    // SAFETY: memory of our own; the offset is that of a `verbs_context` in it.
    unsafe {
        let memory = libc::calloc(1, size);
        let verbs: *mut verbs_context = memory.byte_add(offset.addr()).cast();
        (*verbs).context.cmd_fd = cmd_fd;
        (*verbs).context.device = device;
        memory
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn verbs_uninit_context(verbs: *mut verbs_context) {
    // SAFETY: the provider's context, which owns the file.
    assert_eq!(unsafe { libc::close((*verbs).context.cmd_fd) }, 0);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn verbs_set_ops(_verbs: *mut verbs_context, ops: *const verbs_context_ops) {
    // SAFETY: the provider's constant.
    *installed().lock().unwrap() = Some(unsafe { *ops });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_get_context(
    verbs: *mut verbs_context,
    _cmd: *mut ibv_get_context,
    _cmd_size: usize,
    resp: *mut ib_uverbs_get_context_resp,
    resp_size: usize,
) -> c_int {
    let vnic = ContextResp {
        doorbell_offset: 0.into(),
        kick_offset: 4096.into(),
        kick_register: (KICK_REGISTER as u32).into(),
        kick_value: u32::from(KICK_VALUE).into(),
        ..Default::default()
    };
    // SAFETY: the provider's context and response.
    unsafe {
        respond(resp, resp_size, vnic.as_bytes());
        command(&raw mut (*verbs).context, |_| ())
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_query_device_any(
    _context: *mut ibv_context,
    _input: *const ibv_query_device_ex_input,
    _attr: *mut ibv_device_attr_ex,
    _attr_size: usize,
    resp: *mut ib_uverbs_ex_query_device_resp,
    _resp_size: *mut usize,
) -> c_int {
    // SAFETY: the provider's response.
    unsafe { (*resp).base.fw_ver = 0x0001_0002_0003 };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_query_port(
    context: *mut ibv_context,
    _port: u8,
    _attr: *mut ibv_port_attr,
    _cmd: *mut ibv_query_port,
    _cmd_size: usize,
) -> c_int {
    // SAFETY: the provider's context.
    unsafe { command(context, |_| ()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_alloc_pd(
    context: *mut ibv_context,
    pd: *mut ibv_pd,
    _cmd: *mut ibv_alloc_pd,
    _cmd_size: usize,
    _resp: *mut ib_uverbs_alloc_pd_resp,
    _resp_size: usize,
) -> c_int {
    // SAFETY: the provider's context and domain.
    unsafe {
        (*pd).context = context;
        command(context, |state| state.objects += 1)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_dealloc_pd(pd: *mut ibv_pd) -> c_int {
    // SAFETY: the provider's domain.
    unsafe { command((*pd).context, |state| state.objects -= 1) }
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn ibv_cmd_reg_mr(
    pd: *mut ibv_pd,
    addr: *mut c_void,
    length: usize,
    _iova: u64,
    access: c_int,
    mr: *mut verbs_mr,
    _cmd: *mut ibv_reg_mr,
    _cmd_size: usize,
    _resp: *mut ib_uverbs_reg_mr_resp,
    _resp_size: usize,
) -> c_int {
    // SAFETY: the provider's objects.
    unsafe {
        (*mr).ibv_mr.context = (*pd).context;
        (*mr).ibv_mr.addr = addr;
        (*mr).ibv_mr.length = length;
        (*mr).access = access;
        command((*pd).context, |state| state.objects += 1)
    }
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn ibv_cmd_rereg_mr(
    mr: *mut verbs_mr,
    flags: u32,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_int,
    pd: *mut ibv_pd,
    _cmd: *mut ibv_rereg_mr,
    _cmd_size: usize,
    _resp: *mut ib_uverbs_rereg_mr_resp,
    _resp_size: usize,
) -> c_int {
    // SAFETY: the provider's region.
    unsafe {
        command((*mr).ibv_mr.context, |state| {
            state.asked = format!("{flags} {addr:?} {length} {iova:#x} {access} {}", pd.is_null());
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_advise_mr(
    pd: *mut ibv_pd,
    advice: ib_uverbs_advise_mr_advice,
    flags: u32,
    list: *mut ibv_sge,
    count: u32,
) -> c_int {
    // SAFETY: the provider's domain, and `count` entries.
    unsafe {
        let lengths = std::slice::from_raw_parts(list, count as usize).iter().map(|sge| sge.length);
        let lengths: Vec<_> = lengths.collect();
        command((*pd).context, |state| state.asked = format!("{advice} {flags} {lengths:?}"))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_dereg_mr(mr: *mut verbs_mr) -> c_int {
    // SAFETY: the provider's region.
    unsafe { command((*mr).ibv_mr.context, |state| state.objects -= 1) }
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn ibv_cmd_create_cq_ex(
    context: *mut ibv_context,
    attr: *const ibv_cq_init_attr_ex,
    cq: *mut verbs_cq,
    _cmd: *mut ibv_create_cq_ex,
    _cmd_size: usize,
    resp: *mut ib_uverbs_ex_create_cq_resp,
    resp_size: usize,
    _flags: u32,
) -> c_int {
    // SAFETY: the provider's objects.
    unsafe {
        (*cq.cast::<ibv_cq>()).context = context;
        let wanted = (*attr).cqe;
        command(context, |state| {
            let (offset, length) = state.allocate();
            let depth = state.depth.take().unwrap_or(wanted.next_power_of_two());
            let vnic = CqResp {
                mmap_offset: offset.into(),
                mmap_length: length.into(),
                depth: depth.into(),
                ..Default::default()
            };
            respond(resp, resp_size, vnic.as_bytes());
            state.objects += 1;
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_destroy_cq(cq: *mut ibv_cq) -> c_int {
    // SAFETY: the provider's queue.
    unsafe { command((*cq).context, |state| state.objects -= 1) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_create_qp_ex2(
    context: *mut ibv_context,
    qp: *mut verbs_qp,
    attr: *mut ibv_qp_init_attr_ex,
    _cmd: *mut ibv_create_qp_ex,
    _cmd_size: usize,
    resp: *mut ib_uverbs_ex_create_qp_resp,
    resp_size: usize,
) -> c_int {
    let qp: *mut ibv_qp = qp.cast();
    // SAFETY: the provider's objects.
    unsafe {
        (*qp).context = context;
        let cap = &mut (*attr).cap;
        cap.max_send_wr = cap.max_send_wr.next_power_of_two();
        command(context, |state| {
            let (offset, length) = state.allocate();
            let vnic = QpResp {
                mmap_offset: offset.into(),
                mmap_length: length.into(),
                sq_depth: cap.max_send_wr.into(),
                sq_stride: 64.into(),
                rq_offset: 8192.into(),
                rq_depth: cap.max_recv_wr.next_power_of_two().into(),
                rq_stride: 64.into(),
                doorbell_index: state.created.into(),
                max_inline: cap.max_inline_data.into(),
                max_send_sge: cap.max_send_sge.into(),
                max_recv_sge: cap.max_recv_sge.into(),
                ..Default::default()
            };
            respond(resp, resp_size, vnic.as_bytes());
            (*qp).qp_num = state.force_qpn.take().unwrap_or(0x10_0000 + state.created);
            state.created += 1;
            state.objects += 1;
            state.qpns.push((*qp).qp_num);
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_modify_qp(
    qp: *mut ibv_qp,
    _attr: *mut ibv_qp_attr,
    _mask: c_int,
    _cmd: *mut ibv_modify_qp,
    _cmd_size: usize,
) -> c_int {
    // SAFETY: the provider's queue pair.
    unsafe { command((*qp).context, |_| ()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_query_qp(
    qp: *mut ibv_qp,
    _attr: *mut ibv_qp_attr,
    _mask: c_int,
    _init: *mut ibv_qp_init_attr,
    _cmd: *mut ibv_query_qp,
    _cmd_size: usize,
) -> c_int {
    // SAFETY: the provider's queue pair.
    unsafe { command((*qp).context, |_| ()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ibv_cmd_destroy_qp(qp: *mut ibv_qp) -> c_int {
    // SAFETY: the provider's queue pair.
    unsafe { command((*qp).context, |state| state.objects -= 1) }
}
