// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device tells the driver: completion and asynchronous events, page requests.

use crate::{U32, U64};

codes! {
    /// Kind of an [`Event`].
    pub enum EventKind: u32 = "VNIC_EVENT" {
        /// An armed completion queue received a completion; `object` is its handle.
        Completion / COMPLETION = 1,
        /// A completion queue overran; `object` is its handle.
        CqError / CQ_ERROR = 2,
        /// A queue pair went to error in a way that no completion tells; `object` is its number.
        QpFatal / QP_FATAL = 3,
        /// A queue pair received a request that it does not accept; `object` is its number.
        QpRequestError / QP_REQUEST_ERROR = 4,
        /// A queue pair received an access that its keys do not allow; `object` is its number.
        QpAccessError / QP_ACCESS_ERROR = 5,
        /// First message on a queue pair that is not yet ready to send; `object` is its number.
        CommEstablished / COMM_ESTABLISHED = 6,
        /// The last receive element of a queue pair in error was flushed; `object` is its number.
        LastWqeReached / LAST_WQE_REACHED = 7,
        /// A context broke a rule and was stopped; `object` is its handle.
        ContextFatal / CONTEXT_FATAL = 8,
        /// What carries the port to other hosts is gone; `object` is the number of the port, `cookie` 0 or
        /// `PORT_STILL_REACHES`. Only with the feature `PORT_EVENTS`. A driver takes a port to be up until it is told.
        PortDown / PORT_DOWN = 9,
        /// It is back; otherwise as `PORT_DOWN`.
        PortUp / PORT_UP = 10,
    }
}

/// In the cookie of a [`PortDown`](EventKind::PortDown): there are ports on the same host that the port reaches all
/// the same. It has lost a part of its network then, and is not down.
pub const PORT_STILL_REACHES: u64 = 1;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        PORT_STILL_REACHES: "VNIC_PORT_STILL_REACHES" = PORT_STILL_REACHES,
    ];
}

wire! {
    /// An event, one per buffer of the event queue.
    pub struct Event = "vnic_event" {
        /// [`EventKind`].
        pub kind: U32,
        /// Handle or number of the object.
        pub object: U32,
        /// Number that the driver gave to the object when it created it ([`CqCreate::cookie`] or
        /// [`QpCreate::cookie`]), so that it need not search.
        ///
        /// [`CqCreate::cookie`]: crate::ctrl::CqCreate::cookie
        /// [`QpCreate::cookie`]: crate::ctrl::QpCreate::cookie
        pub cookie: U64,
    }
}

flags! {
    /// What a page request needs.
    pub struct PageAccess: u32 = "VNIC_PAGE_ACCESS" {
        /// The device wants to read.
        READ = 1 << 0;
        /// The device wants to write.
        WRITE = 1 << 1;
    }
}

wire! {
    /// A page request: please make this range present with this access.
    pub struct PageRequest = "vnic_page_request" {
        /// Number to answer with; unique while outstanding.
        pub id: U32,
        /// Address space.
        pub pasid: U32,
        /// First address, page-aligned.
        pub start: U64,
        /// Length in bytes, a multiple of the page size, at least one page.
        pub length: U64,
        /// [`PageAccess`].
        pub access: U32,
        /// Zero.
        pub reserved: U32,
    }
}

codes! {
    /// How the driver answered a page request.
    pub enum PageResponseCode: u32 = "VNIC_PAGE_RESPONSE" {
        /// The first page, at least, is there: try again.
        Success / SUCCESS = 0,
        /// The first page cannot be had with that access.
        Invalid / INVALID = 1,
        /// The address space is going away.
        Gone / GONE = 2,
    }
}
