// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver's threads: answers to commands, events, page requests.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;
use vnic_abi::event::{Event, PageAccess, PageRequest, PageResponseCode};
use zerocopy::FromBytes;

use super::{Kernel, locked};
use crate::process_guest::address_space::FaultAnswer;
use crate::process_guest::memory::Layout;
use crate::process_guest::virtqueue::VirtQueue;

/// Buffers posted to the event and page request queues.
const POSTED: u64 = 64;

/// Serves one page request: what the kernel module's worker does.
fn serve(kernel: &Kernel, request: PageRequest) {
    locked(&kernel.page_requests).push(request);
    let policy = Arc::clone(&kernel.policy.read().unwrap_or_else(PoisonError::into_inner));
    let most = match policy(&request) {
        FaultAnswer::Resolve => Some(u64::MAX),
        FaultAnswer::ResolvePages(pages) => Some(pages),
        FaultAnswer::Answer(code) => {
            // The device may be gone already.
            let _ = kernel.try_page_response(request.id.get(), code);
            None
        }
        FaultAnswer::Ignore => None,
    };
    let Some(most) = most else { return };
    let space = {
        let spaces = kernel.spaces.read().unwrap_or_else(PoisonError::into_inner);
        spaces.get(&request.pasid.get()).cloned()
    };
    let write = PageAccess::from_bits_retain(request.access.get()).contains(PageAccess::WRITE);
    let (start, length) = (request.start.get(), request.length.get());
    let code =
        space.map_or(PageResponseCode::Gone, |space| space.fault_in(start, length, write, most));
    let _ = kernel.try_page_response(request.id.get(), code);
}

/// What a driver thread waits for.
#[derive(Clone, Copy)]
enum Wake {
    Called = 0,
    Stop = 1,
    HungUp = 2,
}

/// Calls `woken` whenever `call` or the end of the connection wakes the thread, until it stops.
fn run_thread(kernel: &Kernel, call: &EventFd, socket: Option<RawFd>, mut woken: impl FnMut(bool)) {
    let epoll = Epoll::new().expect("epoll");
    let add = |fd, set, wake: Wake| {
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(set, wake as u64)).expect("epoll_ctl");
    };
    add(call.as_raw_fd(), EventSet::IN, Wake::Called);
    add(kernel.stop.as_raw_fd(), EventSet::IN, Wake::Stop);
    if let Some(socket) = socket {
        add(socket, EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ONE_SHOT, Wake::HungUp);
    }
    let mut ready = [EpollEvent::default(); 3];
    loop {
        let Ok(count) = epoll.wait(-1, &mut ready) else { continue };
        let has = |wake: Wake| ready[..count].iter().any(|event| event.data() == wake as u64);
        if has(Wake::Stop) {
            return;
        }
        // Emptying the counter before looking at the queue: a later notification wakes us again.
        let _ = call.read();
        woken(has(Wake::HungUp));
    }
}

/// Posts buffers of `T` and hands over what the device puts in, until the driver stops.
fn receive<T: FromBytes>(kernel: &Kernel, queue: &Mutex<VirtQueue>, mut take: impl FnMut(T)) {
    let size = size_of::<T>() as u64;
    let buffers = kernel.ram.alloc(POSTED * size, Layout::Linear);
    let mut at = HashMap::new();
    let call = {
        let mut queue = locked(queue);
        for i in 0..POSTED {
            let part = (buffers.gpa(i * size), size as u32, true);
            at.insert(queue.push(&[part]).expect("room in an empty queue"), i * size);
        }
        queue.notify();
        queue.call_fd().try_clone().expect("dup eventfd")
    };
    run_thread(kernel, &call, None, |_| {
        loop {
            let Some((head, len)) = locked(queue).pop() else { return };
            let offset = at.remove(&head).expect("a buffer that was posted");
            assert_eq!(u64::from(len), size, "the device fills a buffer");
            let mut bytes = vec![0; size as usize];
            buffers.read(offset, &mut bytes);
            let mut queue = locked(queue);
            let part = (buffers.gpa(offset), size as u32, true);
            at.insert(queue.push(&[part]).expect("the place that was just freed"), offset);
            queue.notify();
            drop(queue);
            let Ok(value) = T::read_from_bytes(&bytes) else { unreachable!("exact size") };
            take(value);
        }
    });
}

/// Starts what the kernel module does by itself.
pub(super) fn start_threads(kernel: &Arc<Kernel>) -> Vec<JoinHandle<()>> {
    let spawn = |name: &str, run: fn(&Kernel)| {
        let kernel = Arc::clone(kernel);
        let thread = std::thread::Builder::new().name(format!("guest-{name}"));
        thread.spawn(move || run(&kernel)).expect("spawn a thread")
    };
    vec![
        spawn("ctrl", |kernel| {
            let call = locked(&kernel.ctrl).queue.call_fd().try_clone().expect("dup eventfd");
            let socket =
                locked(&kernel.connection).as_mut().map(|open| open.frontend().as_raw_fd());
            run_thread(kernel, &call, socket, |hung_up| {
                kernel.take_answers();
                if hung_up {
                    kernel.set_closed();
                }
            });
        }),
        spawn("event", |kernel| {
            receive::<Event>(kernel, &kernel.events, |event| kernel.take_event(event));
        }),
        spawn("fault", |kernel| {
            receive::<PageRequest>(kernel, &kernel.faults, |request| serve(kernel, request));
        }),
    ]
}
