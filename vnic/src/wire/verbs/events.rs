// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a device of the host says of its own accord: its asynchronous events.

use super::device::Device;
use rdma_sys as ib;
use std::mem::MaybeUninit;
use vnic_abi::event::EventKind;

/// An event (`ibv_get_async_event(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A port can be used, from now on or again.
    PortUp(u32),
    /// A port cannot be used any more. Lanes break when their device has tried for long enough.
    PortDown(u32),
    /// The device failed for good, or was removed.
    Fatal,
    /// Something about a queue pair, by number. That of a lane learns of failures from its completions.
    QueuePair(EventKind, u32),
    /// Another one, by number: nothing that lanes depend on.
    Other(u32),
}

/// To what an event refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Device,
    Port,
    /// With what the event is called in a guest.
    QueuePair(EventKind),
}

type Kind = ib::ibv_event_type;

/// By number, since a newer library may have other kinds.
const fn about(kind: u32) -> Option<About> {
    const FATAL: u32 = Kind::IBV_EVENT_DEVICE_FATAL as u32;
    const UP: u32 = Kind::IBV_EVENT_PORT_ACTIVE as u32;
    const DOWN: u32 = Kind::IBV_EVENT_PORT_ERR as u32;
    const QP_FATAL: u32 = Kind::IBV_EVENT_QP_FATAL as u32;
    const QP_REQUEST: u32 = Kind::IBV_EVENT_QP_REQ_ERR as u32;
    const QP_ACCESS: u32 = Kind::IBV_EVENT_QP_ACCESS_ERR as u32;
    const QP_ESTABLISHED: u32 = Kind::IBV_EVENT_COMM_EST as u32;
    match kind {
        FATAL => Some(About::Device),
        UP | DOWN => Some(About::Port),
        QP_FATAL => Some(About::QueuePair(EventKind::QpFatal)),
        QP_REQUEST => Some(About::QueuePair(EventKind::QpRequestError)),
        QP_ACCESS => Some(About::QueuePair(EventKind::QpAccessError)),
        QP_ESTABLISHED => Some(About::QueuePair(EventKind::CommEstablished)),
        _ => None,
    }
}

impl DeviceEvent {
    /// The event of this kind; `number` is of its port or queue pair.
    const fn of(kind: u32, number: u32) -> Self {
        match about(kind) {
            Some(About::Device) => Self::Fatal,
            Some(About::Port) if kind == Kind::IBV_EVENT_PORT_ACTIVE as u32 => Self::PortUp(number),
            Some(About::Port) => Self::PortDown(number),
            Some(About::QueuePair(kind)) => Self::QueuePair(kind, number),
            None => Self::Other(kind),
        }
    }

    /// Tells the log.
    pub fn log(self, device: &str) {
        match self {
            Self::PortUp(port) => tracing::info!(device, port, "port of the RDMA device is up"),
            Self::PortDown(port) => tracing::warn!(device, port, "port of the RDMA device is down"),
            Self::Fatal => tracing::warn!(device, "RDMA device failed, or was removed"),
            Self::QueuePair(kind, qpn) => {
                tracing::debug!(device, qpn, ?kind, "event of a queue pair")
            }
            Self::Other(kind) => tracing::debug!(device, kind, "event (ibv_event_type)"),
        }
    }
}

impl Device {
    /// The next event, without waiting for one: [`Device::event`] is readable when there is one. Each is told once,
    /// to whoever asks first; use [`Device::hear`] for a device that has lanes.
    pub fn next_event(&self) -> Option<DeviceEvent> {
        #[allow(unsafe_code)] // reason: C functions
        // SAFETY: the context is open and its file does not block. An event that was taken is acknowledged once,
        // and the queue pair that it names cannot be destroyed before that. The kind says which part of the union
        // is meant, and is read as the number that it is.
        unsafe {
            let mut event = MaybeUninit::<ib::ibv_async_event>::zeroed();
            if ib::ibv_get_async_event(self.context(), event.as_mut_ptr()) != 0 {
                return None;
            }
            let told = event.as_ptr();
            let kind = (&raw const (*told).event_type).cast::<u32>().read();
            let number = match about(kind) {
                Some(About::QueuePair(_)) => (*(*told).element.qp).qp_num,
                Some(About::Port) => (*told).element.port_num.unsigned_abs(),
                Some(About::Device) | None => 0,
            };
            ib::ibv_ack_async_event(event.as_mut_ptr());
            Some(DeviceEvent::of(kind, number))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        assert_eq!(DeviceEvent::of(Kind::IBV_EVENT_PORT_ACTIVE as u32, 1), DeviceEvent::PortUp(1));
        assert_eq!(DeviceEvent::of(Kind::IBV_EVENT_PORT_ERR as u32, 2), DeviceEvent::PortDown(2));
        assert_eq!(DeviceEvent::of(Kind::IBV_EVENT_DEVICE_FATAL as u32, 0), DeviceEvent::Fatal);
        for (kind, guests) in [
            (Kind::IBV_EVENT_QP_FATAL, EventKind::QpFatal),
            (Kind::IBV_EVENT_QP_REQ_ERR, EventKind::QpRequestError),
            (Kind::IBV_EVENT_QP_ACCESS_ERR, EventKind::QpAccessError),
            (Kind::IBV_EVENT_COMM_EST, EventKind::CommEstablished),
        ] {
            assert_eq!(DeviceEvent::of(kind as u32, 17), DeviceEvent::QueuePair(guests, 17));
        }
        assert_eq!(DeviceEvent::of(Kind::IBV_EVENT_GID_CHANGE as u32, 1), DeviceEvent::Other(18));
        assert_eq!(DeviceEvent::of(u32::MAX, 1), DeviceEvent::Other(u32::MAX));
    }
}
