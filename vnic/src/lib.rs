// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tongtu vNIC: the virtual RDMA NIC daemon and its library.
