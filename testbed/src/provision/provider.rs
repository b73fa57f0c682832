// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verbs provider: a shared library that the guest's libibverbs loads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{cache::Cache, image::Overlay, progress::Step, root::Root, workspace::Workspace};
use crate::error::{Doing, Error, Result};

/// Where libibverbs looks for providers, in the root and in a guest.
const PROVIDERS: &str = "usr/lib/x86_64-linux-gnu/libibverbs";

/// Folders of the workspace that the provider is built from.
const SOURCES: &[&str] = &["guest-driver/abi", "guest-driver/verbs", "guest-driver/provider"];

const PACKAGE: &str = "vnic-provider";

/// What the provider's build wants to know, as paths inside the root.
const ENVIRONMENT: &[(&str, &str)] =
    &[("VNIC_RDMA_CORE_SRC", "/testbed/rdma-core"), ("VNIC_GUEST_ROOT", "/")];

/// A provider that was built for the guests' libibverbs.
#[derive(Debug, Clone)]
pub struct Provider {
    /// The library, a path on the host.
    pub library: PathBuf,
    /// Version of the private interface between libibverbs and its providers.
    pub private_abi: u32,
}

impl Provider {
    /// The files that make a guest load it.
    ///
    /// # Errors
    /// When the library is gone.
    pub fn overlays(&self) -> Result<Vec<Overlay>> {
        let guest = format!("/{PROVIDERS}/libvnic-rdmav{}.so", self.private_abi);
        Ok(vec![
            Overlay::host(guest, &self.library)?,
            Overlay::text("/etc/libibverbs.d/vnic.driver", "driver vnic\n"),
        ])
    }
}

/// Builds the provider, or finds the one built before from the same sources.
pub(super) fn build(cache: &Cache, root: &Root, workspace: &Workspace) -> Result<Provider> {
    let key = workspace.key("provider", 1, root, SOURCES)?;
    let folder = cache.get("provider", &key, |at| {
        let step = Step::start("building the verbs provider");
        let built = workspace.build(cache, root, PACKAGE, ENVIRONMENT, &step)?;
        let from = library_in(&built)?;
        fs::copy(&from, at.join("libvnic.so")).at("copy", &from)?;
        step.done();
        Ok(())
    })?;
    Ok(Provider { library: folder.join("libvnic.so"), private_abi: private_abi(root)? })
}

/// Runs the provider's tests against the guests' libibverbs.
pub(super) fn test(cache: &Cache, root: &Root, workspace: &Workspace) -> Result<()> {
    let step = Step::start("testing the verbs provider");
    let log = cache.log("provider-test");
    workspace.cargo(root, &["test", "-p", PACKAGE], &[], ENVIRONMENT, &log, &step)?;
    step.done();
    Ok(())
}

/// Runs clippy over the provider, which needs the guests' headers as its build does.
pub(super) fn lint(cache: &Cache, root: &Root, workspace: &Workspace) -> Result<()> {
    let step = Step::start("linting the verbs provider");
    let log = cache.log("provider-lint");
    let arguments = ["clippy", "-p", PACKAGE, "--all-targets"];
    let deny = ["--", "-D", "warnings"];
    workspace.cargo(root, &arguments, &deny, ENVIRONMENT, &log, &step)?;
    step.done();
    Ok(())
}

/// The one library whose name says that it is ours, whatever the crate calls it.
fn library_in(folder: &Path) -> Result<PathBuf> {
    let names = ["libvnic_provider.so", "libvnic.so"].map(|name| folder.join(name));
    names.into_iter().find(|path| path.exists()).ok_or_else(|| {
        Error::unfit(
            format!("the build left no libvnic_provider.so in {}", folder.display()),
            "The crate vnic-provider must be a cdylib.",
        )
    })
}

/// Read from the names of the distribution's own providers: `librxe-rdmav34.so`.
fn private_abi(root: &Root) -> Result<u32> {
    let folder = root.path().join(PROVIDERS);
    let mut entries = fs::read_dir(&folder).at("read", &folder)?.filter_map(|entry| entry.ok());
    entries.find_map(|entry| parse_private_abi(&entry.file_name().to_string_lossy())).ok_or_else(
        || {
            Error::unfit(
                format!(
                    "{} holds no provider to read the private interface from",
                    folder.display()
                ),
                "The root must hold the package ibverbs-providers.",
            )
        },
    )
}

fn parse_private_abi(name: &str) -> Option<u32> {
    name.rsplit_once("-rdmav")?.1.strip_suffix(".so")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_abi_is_in_the_name() {
        assert_eq!(parse_private_abi("librxe-rdmav34.so"), Some(34));
        assert_eq!(parse_private_abi("libibverbs.so"), None);
        assert_eq!(parse_private_abi("libx-rdmavx.so"), None);
    }
}
