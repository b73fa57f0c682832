// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Status codes of control commands.

codes! {
    /// Outcome of a control command.
    ///
    /// A handle that belongs to somebody else answers as a handle that does not exist
    /// ([`Status::BadHandle`]), so that nobody learns what others hold.
    pub enum Status: u32 = "VNIC_STATUS" {
        /// Done.
        Ok / OK = 0,
        /// The command is shorter than its opcode needs, or a reserved field is not zero.
        Malformed / MALFORMED = 1,
        /// The opcode is not known.
        UnknownCommand / UNKNOWN_COMMAND = 2,
        /// A handle names no object of the right kind and owner.
        BadHandle / BAD_HANDLE = 3,
        /// A limit of the port is reached.
        Limit / LIMIT = 4,
        /// The object's state does not allow the command.
        BadState / BAD_STATE = 5,
        /// An address lies outside guest memory, is misaligned, or overlaps.
        BadAddress / BAD_ADDRESS = 6,
        /// A size or count is out of range, or a sum wraps.
        BadSize / BAD_SIZE = 7,
        /// Another object still uses this one.
        Busy / BUSY = 8,
        /// The device does not have this feature, or it was not negotiated.
        Unsupported / UNSUPPORTED = 9,
        /// The value is taken, e.g. a GID that another port announced first.
        Exists / EXISTS = 10,
        /// An attribute is missing, superfluous or out of range.
        BadAttribute / BAD_ATTRIBUTE = 11,
    }
}
