// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that were built for hosts: the daemon with what it needs for RDMA devices, guests that are processes, and
//! what measures.

use std::path::PathBuf;

use super::PROGRAM;
use crate::{
    error::{Error, Result},
    provision::{image::Overlay, workspace::Workspace},
};

/// The program that measures, in a host; [`bench::wire`](crate::bench::wire) runs it.
pub const WIRE_BENCH: &str = "/usr/bin/wire_bench";

/// Where each is in a host, and where it was built, below [`built`].
const PROGRAMS: [(&str, &str); 6] = [
    (PROGRAM, "vnic"),
    ("/usr/bin/bare_peer", "examples/bare_peer"),
    ("/usr/bin/port_events", "examples/port_events"),
    ("/usr/bin/verbs_lane", "examples/verbs_lane"),
    ("/usr/bin/wire_guest", "examples/wire_guest"),
    (WIRE_BENCH, "examples/wire_bench"),
];

/// The folder that they are built in: apart from others, since features are chosen for all that is built together.
pub fn built(workspace: &Workspace) -> PathBuf {
    workspace.target().join("wire/release")
}

/// All of them, to be laid over an image.
///
/// # Errors
/// When one was not built.
pub fn programs(workspace: &Workspace) -> Result<Vec<Overlay>> {
    let built = built(workspace);
    let overlay = |(at, path)| {
        let path = built.join(path);
        if !path.exists() {
            let what = format!("there is no {}", path.display());
            return Err(Error::unfit(what, "`cargo xtask test` builds it."));
        }
        Overlay::host(at, &path)
    };
    PROGRAMS.into_iter().map(overlay).collect()
}
