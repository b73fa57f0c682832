// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program that serves the host inside a guest.

use std::{fs, path::PathBuf};

use super::{cache::Cache, progress::Step, root::Root, workspace::Workspace};
use crate::error::{Doing, Result};

/// Builds the agent, or finds the one built before from the same sources.
pub(super) fn build(cache: &Cache, root: &Root, workspace: &Workspace) -> Result<PathBuf> {
    let key = workspace.key("agent", 1, root, &["testbed/agent"])?;
    let folder = cache.get("agent", &key, |at| {
        let step = Step::start("building the guest agent");
        let built = workspace.build(cache, root, "vnic-guest-agent", &[], &step)?;
        let from = built.join("vnic-guest-agent");
        fs::copy(&from, at.join("vnic-guest-agent")).at("copy", &from)?;
        step.done();
        Ok(())
    })?;
    Ok(folder.join("vnic-guest-agent"))
}
