// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Developer commands.

fn main() {}
