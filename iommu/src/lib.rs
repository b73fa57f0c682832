// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Address spaces, page-table walkers, IOTLB and quiescence.
