// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon tells about itself, over a local control socket.
