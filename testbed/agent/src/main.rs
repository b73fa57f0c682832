// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent inside a testbed guest. As process 1 it prepares the system and keeps house; its
//! child serves the host's requests.

mod command;
mod files;
mod init;
mod port;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = if rustix::process::getpid().is_init() {
        init::run()
    } else {
        port::open().and_then(serve::run)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vnic-guest-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
