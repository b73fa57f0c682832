// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages of 2 MiB, which the administrator sets aside and guests' memory can be made of: fewer entries for
//! processors to cache, and none of it swapped or moved by the host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Doing, Error, Result};

/// MiB of one page.
pub const MIB: u64 = 2;

/// The kernel's counters of these pages.
const FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// How many pages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// Set aside in all.
    pub all: u64,
    /// Of them, promised to nobody.
    pub free: u64,
}

impl Pages {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When it has no such pages.
    pub fn look() -> Result<Self> {
        Self::read(Path::new(FOLDER))
    }

    fn read(folder: &Path) -> Result<Self> {
        if !folder.exists() {
            let what = "this kernel has no huge pages of 2 MiB";
            return Err(Error::unfit(what, "Leave `--huge-pages` out."));
        }
        let count = |name: &str| {
            let path: PathBuf = folder.join(name);
            let text = fs::read_to_string(&path).at("read", &path)?;
            text.trim().parse::<u64>().map_err(|error| Error::Unread {
                program: path.display().to_string(),
                what: error.to_string(),
                output: text,
            })
        };
        let free = count("free_hugepages")?.saturating_sub(count("resv_hugepages")?);
        Ok(Self { all: count("nr_hugepages")?, free })
    }

    /// Makes sure that machines of `mib` MiB each can be started.
    ///
    /// # Errors
    /// When they are too few, with the command that sets more aside.
    pub fn ensure(self, mib: &[u32]) -> Result<()> {
        let wanted = mib.iter().map(|&mib| u64::from(mib).div_ceil(MIB)).sum::<u64>();
        if wanted <= self.free {
            return Ok(());
        }
        let Self { all, free } = self;
        let enough = all + wanted - free;
        Err(Error::unfit(
            format!(
                "the guests' memory takes {wanted} huge pages of {MIB} MiB, and {free} are free"
            ),
            format!(
                "Set them aside with `sysctl vm.nr_hugepages={enough}`; if fewer come of it, do so soon \
                 after the machine has started."
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_pages_are_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for (name, count) in
            [("nr_hugepages", 600), ("free_hugepages", 500), ("resv_hugepages", 40)]
        {
            fs::write(folder.path().join(name), format!("{count}\n")).unwrap();
        }
        let pages = Pages::read(folder.path()).unwrap();
        assert_eq!(pages, Pages { all: 600, free: 460 });
        pages.ensure(&[512, 408]).unwrap();
        insta::assert_snapshot!(
            pages.ensure(&[512, 511]).unwrap_err(),
            @"the guests' memory takes 512 huge pages of 2 MiB, and 460 are free. Set them aside with `sysctl vm.nr_hugepages=652`; if fewer come of it, do so soon after the machine has started."
        );
        let none = Pages::read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(none.contains("no huge pages"), "{none}");
    }
}
