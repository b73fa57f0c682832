// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Turns a Debian machine into one that can boot guests, and builds what the guests run.
//!
//! Everything is built once and kept in a [`cache`] by the hash of its inputs.

pub mod browser;
pub mod cache;
pub mod guest_program;
pub mod image;
pub mod kernel;
pub mod progress;
pub mod provider;
pub mod qemu;
pub mod root;
pub mod workspace;

mod agent;
mod attach;
mod bzimage;
mod cpio;
mod elf;
mod host;
mod kmod;
mod logged;
mod rxe;

use std::path::{Path, PathBuf};

use self::{
    cache::Cache,
    guest_program::GuestProgram,
    image::{Image, Overlay},
    kernel::{Kernel, Series},
    provider::Provider,
    qemu::Qemu,
    root::Root,
    workspace::Workspace,
};
use crate::{
    error::{Doing, Result},
    process::cleanup,
    vm::RunDir,
};

/// A machine that is ready: a root with kernels and compilers, a QEMU, an agent for the guests.
#[derive(Debug, Clone)]
pub struct Provision {
    cache: Cache,
    root: Root,
    workspace: Workspace,
    agent: PathBuf,
    /// The QEMU that runs the guests.
    pub qemu: Qemu,
}

/// Installs Debian packages on this machine, as far as they are missing.
///
/// # Errors
/// Without root rights, off Debian, or when apt-get fails, with the end of its output.
pub fn install(packages: &[&str]) -> Result<()> {
    host::install(&Cache::open()?, packages)
}

impl Provision {
    /// Installs, builds or finds everything that is needed to boot a guest. Showing progress on
    /// standard error, it takes a few minutes the first time and well under a second later.
    ///
    /// Also installs the handler that tidies on Ctrl-C.
    ///
    /// # Errors
    /// When this is not root, or a step fails; the error names the log of the step.
    pub fn prepare(workspace: Workspace) -> Result<Self> {
        cleanup::on_interrupt().doing(|| "handle interrupts".into())?;
        let cache = Cache::open()?;
        host::prepare(&cache)?;
        let root = Root::provision(&cache)?;
        let qemu = Qemu::find(&root)?;
        let agent = agent::build(&cache, &root, &workspace)?;
        Ok(Self { cache, root, workspace, agent, qemu })
    }

    /// Where built things are kept.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The Debian root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The workspace whose crates the guests run.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The unpacked source of the guests' rdma-core, a path on the host. Inside the root it is
    /// `/testbed/rdma-core`, and a provider's build finds it in `VNIC_RDMA_CORE_SRC`.
    pub fn rdma_core_source(&self) -> PathBuf {
        self.root.path().join("testbed/rdma-core")
    }

    /// One of the guest kernels.
    ///
    /// # Errors
    /// When the root is damaged.
    pub fn kernel(&self, series: Series) -> Result<Kernel> {
        Kernel::find(&self.cache, &self.root, series)
    }

    /// Builds `guest-driver/kernel` for a kernel; returns its modules.
    ///
    /// # Errors
    /// When make fails, with the end of its output.
    pub fn build_kmod(&self, kernel: &Kernel) -> Result<Vec<PathBuf>> {
        self.build_modules(kernel, "vnic_rdma", &self.workspace.root().join("guest-driver/kernel"))
    }

    /// Builds any folder with a Kbuild makefile for a kernel; returns its modules. `name` is for
    /// the reader of progress and logs.
    ///
    /// # Errors
    /// When make fails, with the end of its output.
    pub fn build_modules(
        &self,
        kernel: &Kernel,
        name: &str,
        source: &Path,
    ) -> Result<Vec<PathBuf>> {
        kmod::build(&self.cache, &self.root, kernel, name, source)
    }

    /// Builds `guest-driver/provider` against the guests' libibverbs.
    ///
    /// # Errors
    /// When cargo fails, with the end of its output.
    pub fn build_provider(&self) -> Result<Provider> {
        provider::build(&self.cache, &self.root, &self.workspace)
    }

    /// Runs the tests of `guest-driver/provider`, which need the guests' libibverbs.
    ///
    /// # Errors
    /// When one fails, with the end of the output.
    pub fn test_provider(&self) -> Result<()> {
        provider::test(&self.cache, &self.root, &self.workspace)
    }

    /// Runs clippy over `guest-driver/provider`, with warnings denied.
    ///
    /// # Errors
    /// When it finds something, with the end of the output.
    pub fn lint_provider(&self) -> Result<()> {
        provider::lint(&self.cache, &self.root, &self.workspace)
    }

    /// Compiles the programs of `testbed/guest-programs`.
    ///
    /// # Errors
    /// When the compiler refuses one, with what it says.
    pub fn build_guest_programs(&self) -> Result<Vec<GuestProgram>> {
        let folder = self.workspace.root().join("testbed/guest-programs");
        guest_program::build(&self.cache, &self.root, &folder)
    }

    /// What makes a guest use a vNIC: the module for `kernel` and the provider.
    ///
    /// # Errors
    /// When one of them cannot be built.
    pub fn guest_driver(&self, kernel: &Kernel) -> Result<Vec<Overlay>> {
        let mut overlays = self.build_provider()?.overlays()?;
        for module in self.build_kmod(kernel)? {
            overlays.push(Overlay::module(kernel, &module)?);
        }
        Ok(overlays)
    }

    /// Packs a guest image with `overlays` over the packages.
    ///
    /// # Errors
    /// When an overlay cannot be read, or a program in it needs a library that the root lacks.
    pub fn image(&self, kernel: &Kernel, overlays: &[Overlay]) -> Result<Image> {
        image::build(&self.cache, &self.root, kernel, &self.agent, overlays)
    }

    /// An image with more files, for one run: what is built anew all the time, such as the daemon, need not be
    /// packed and kept with all the rest each time. It is gone with the folder of the run. Programs find the
    /// libraries that they need.
    ///
    /// # Errors
    /// When a file cannot be read, or a program needs a library that the root lacks.
    pub fn attach(&self, image: &Image, files: &[Overlay], run: &RunDir) -> Result<Image> {
        attach::build(&self.root, image, files, run)
    }

    /// The kernel's rxe with its defects mended, to be laid over an image of that kernel. Building it takes half a
    /// minute and the source of the kernel from Debian's archive, once.
    ///
    /// # Errors
    /// When the archive has no source of this kernel any more, or the source is another one than the mends were
    /// written for, or make fails.
    pub fn mended_rxe(&self, kernel: &Kernel) -> Result<Overlay> {
        rxe::build(&self.cache, &self.root, kernel)
    }
}
