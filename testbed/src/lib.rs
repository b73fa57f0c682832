// SPDX-License-Identifier: Apache-2.0 OR MIT
//! VM testbed, workloads and measurement for the Tongtu vNIC.
