// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest kernels, both from Debian packages in the root.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::PathBuf,
    str::FromStr,
};

use super::{
    bzimage,
    cache::{Cache, Key},
    progress::Step,
    root::{Root, SUITE},
};
use crate::error::{Doing, Error, Result};

/// Which of Debian's kernels a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Series {
    /// The kernel of the release: 6.12 in trixie.
    Stable,
    /// The kernel of its backports: 7.3 or newer.
    Backports,
}

impl Series {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::Stable, Self::Backports];

    fn archive(self) -> String {
        match self {
            Self::Stable => SUITE.into(),
            Self::Backports => format!("{SUITE}-backports"),
        }
    }
}

impl FromStr for Series {
    type Err = String;

    /// Takes the number of the kernel, or the name that [`Series`] is displayed with.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "6.12" | "stable" => Ok(Self::Stable),
            "7.3" | "backports" => Ok(Self::Backports),
            _ => Err("the guest kernels are 6.12 (stable) and 7.3 (backports)".into()),
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Backports => "backports",
        })
    }
}

/// A kernel in the root.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Which of the two it is.
    pub series: Series,
    /// What `uname -r` prints.
    pub release: String,
    /// The bootable image, a path on the host.
    pub image: PathBuf,
    /// The folder of its modules, a path on the host.
    pub modules: PathBuf,
}

impl Kernel {
    /// Finds a kernel in the root, and unpacks its image.
    ///
    /// # Errors
    /// When the root is damaged.
    pub fn find(cache: &Cache, root: &Root, series: Series) -> Result<Self> {
        let archive = series.archive();
        let note = root.path().join(format!("testbed/kernel-{archive}"));
        let release = fs::read_to_string(&note).at("read", &note)?.trim().to_string();
        let packed = root.path().join(format!("testbed/vmlinuz-{archive}"));
        let key = Key::new("kernel", 1).text(&root.key()).text(&archive);
        let folder = cache.get(&format!("kernel-{series}"), &key, |at| {
            let step = Step::start(format!("unpacking kernel {release}"));
            bzimage::unpack(root, &packed, &at.join("image"), &cache.log("kernel"), &step)?;
            step.done();
            Ok(())
        })?;
        Ok(Self {
            series,
            image: folder.join("image"),
            modules: root.path().join("usr/lib/modules").join(&release),
            release,
        })
    }

    /// The module files that `names` need, themselves included, relative to [`Kernel::modules`].
    /// Names that are built into the kernel need none.
    ///
    /// # Errors
    /// When a name is neither a module nor built in.
    pub fn resolve(&self, names: &[&str]) -> Result<BTreeSet<String>> {
        let read = |name: &str| {
            let path = self.modules.join(name);
            fs::read_to_string(&path).at("read", &path)
        };
        resolve(&read("modules.dep")?, &read("modules.builtin")?, names).map_err(|name| {
            Error::unfit(
                format!("kernel {} has no module {name}", self.release),
                "Name another module, or build the root anew.",
            )
        })
    }
}

fn resolve<'a>(
    dependencies: &str,
    builtin: &str,
    names: &[&'a str],
) -> std::result::Result<BTreeSet<String>, &'a str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let files = lines.map(|(file, needs)| (module_name(file), (file, needs)));
    let files = files.collect::<BTreeMap<_, _>>();
    let builtin = builtin.lines().map(module_name).collect::<BTreeSet<_>>();
    let mut found = BTreeSet::new();
    for &name in names {
        match files.get(name) {
            // depmod lists everything that is needed, not only the next step.
            Some((file, needs)) => {
                found.insert((*file).to_string());
                found.extend(needs.split_whitespace().map(str::to_string));
            }
            None if builtin.contains(name) => {}
            None => return Err(name),
        }
    }
    Ok(found)
}

/// The name that modprobe takes, from a file such as `kernel/lib/virtio-net.ko.xz`.
fn module_name(file: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/rdma-rxe.ko.xz: kernel/b/ib_core.ko.xz kernel/c/udp_tunnel.ko.xz\n\
                       kernel/b/ib_core.ko.xz:\n\
                       kernel/c/udp_tunnel.ko.xz:\n\
                       kernel/d/other.ko.xz: kernel/b/ib_core.ko.xz\n";

    #[test]
    fn modules_come_with_what_they_need() {
        let found = resolve(DEP, "kernel/lib/crc32.ko\n", &["rdma_rxe", "crc32"]).unwrap();
        let expected =
            ["kernel/a/rdma-rxe.ko.xz", "kernel/b/ib_core.ko.xz", "kernel/c/udp_tunnel.ko.xz"];
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_series_has_a_number_and_a_name() {
        assert_eq!("6.12".parse(), Ok(Series::Stable));
        assert_eq!("7.3".parse(), Ok(Series::Backports));
        for series in Series::ALL {
            assert_eq!(series.to_string().parse(), Ok(series));
        }
        assert!("5.10".parse::<Series>().is_err());
    }

    #[test]
    fn an_unknown_module_is_named() {
        assert_eq!(resolve(DEP, "", &["rdma_rxe", "nothing"]), Err("nothing"));
    }
}
