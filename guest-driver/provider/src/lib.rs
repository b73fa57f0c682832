// SPDX-License-Identifier: Apache-2.0 OR MIT
//! rdma-core provider for the Tongtu vNIC.
