// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest image: an initramfs of chosen packages, the libraries that they need, the kernel
//! modules, the agent, and whatever else a caller lays over it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{
    cache::{Cache, Key},
    cpio, elf,
    kernel::Kernel,
    logged,
    progress::Step,
    root::{Access, GUEST_PACKAGES, Root},
};
use crate::error::{Doing, Error, Result};

/// Bumped when the code below packs the same inputs in another way.
const VERSION: u32 = 1;

/// Modules in every image, with all that they need.
const MODULES: &[&str] = &[
    "9p",
    "9pnet_virtio",
    "ext4",
    "ib_core",
    "ib_uverbs",
    "kvm_amd",
    "kvm_intel",
    "nd_pmem",
    "nfit",
    "rdma_cm",
    "rdma_rxe",
    "sch_netem",
    "rdma_ucm",
    "veth",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "zram",
];

/// Modules that some kernels have and others do without: checksums of rxe and ext4 before 6.16.
const OPTIONAL_MODULES: &[&str] = &["crc32_generic", "crc32_pclmul", "crc32c_generic"];

/// Modules that the guest loads before it answers.
const BOOT_MODULES: &str = "virtio_net\nib_uverbs\nrdma_ucm\n";

/// Folders of a package that a guest has no use for.
const LEFT_OUT: &[&str] = &[
    "usr/share/",
    "usr/lib/systemd/",
    "usr/lib/python",
    "usr/lib/udev/",
    "usr/lib/modules",
    "usr/include/",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/src/",
    "etc/init.d/",
    "etc/systemd/",
    "etc/udev/",
    "usr/lib/tmpfiles.d/",
];

/// A file that is laid over the packages.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// Absolute path in the guest.
    pub guest: String,
    /// Its content.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
}

/// Content of an [`Overlay`].
#[derive(Debug, Clone)]
pub enum Content {
    /// A file of the host.
    Host(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Overlay {
    /// A file of the host, executable if that is.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn host(guest: impl Into<String>, host: &Path) -> Result<Self> {
        let mode = fs::metadata(host).at("find", host)?.permissions().mode() & 0o777;
        Ok(Self { guest: guest.into(), content: Content::Host(host.into()), mode })
    }

    /// A small text file.
    pub fn text(guest: impl Into<String>, text: impl Into<String>) -> Self {
        Self { guest: guest.into(), content: Content::Bytes(text.into().into_bytes()), mode: 0o644 }
    }

    /// A kernel module, where `modprobe` finds it.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn module(kernel: &Kernel, host: &Path) -> Result<Self> {
        let name = host.file_name().unwrap_or_default().to_string_lossy();
        Self::host(format!("/usr/lib/modules/{}/updates/{name}", kernel.release), host)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        match &self.content {
            Content::Host(path) => fs::read(path).at("read", path),
            Content::Bytes(bytes) => Ok(bytes.clone()),
        }
    }
}

/// What a guest boots.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel, on which the modules depend.
    pub kernel: Kernel,
    /// The initramfs, a path on the host.
    pub initramfs: PathBuf,
}

/// Packs an image, or finds the one packed before from the same inputs.
pub(super) fn build(
    cache: &Cache,
    root: &Root,
    kernel: &Kernel,
    agent: &Path,
    overlays: &[Overlay],
) -> Result<Image> {
    let key = Key::new("image", VERSION).text(&root.key()).text(&kernel.release).text(BOOT_MODULES);
    let mut key = key.path(agent)?;
    for word in MODULES.iter().chain(OPTIONAL_MODULES).chain(LEFT_OUT).chain(GUEST_PACKAGES) {
        key = key.text(word);
    }
    for overlay in overlays {
        key = key.text(&overlay.guest).text(&overlay.mode.to_string()).bytes(&overlay.bytes()?);
    }
    let kind = format!("image-{}", kernel.series);
    let folder = cache.get(&kind, &key, |at| {
        let step = Step::start(format!("packing the guest image for {}", kernel.release));
        let stage = Stage { root, folder: at.join("tree") };
        stage.skeleton()?;
        stage.packages()?;
        stage.applets(cache, &step)?;
        stage.install(agent, "/sbin/init")?;
        stage.modules(cache, kernel, &step)?;
        for overlay in overlays {
            stage.overlay(overlay)?;
        }
        stage.libraries_of_overlays(overlays)?;
        stage.depmod(cache, kernel, &step)?;
        stage.pack(&at.join("initramfs"))?;
        fs::remove_dir_all(&stage.folder).at("remove", &stage.folder)?;
        step.done();
        Ok(())
    })?;
    Ok(Image { kernel: kernel.clone(), initramfs: folder.join("initramfs") })
}

pub(super) struct Stage<'a> {
    pub(super) root: &'a Root,
    pub(super) folder: PathBuf,
}

impl Stage<'_> {
    pub(super) fn at(&self, guest: &str) -> PathBuf {
        self.folder.join(guest.trim_start_matches('/'))
    }

    fn skeleton(&self) -> Result<()> {
        for folder in [
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
            "root",
            "etc",
            "var",
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
        ] {
            fs::create_dir_all(self.at(folder)).at("make", &self.at(folder))?;
        }
        for (link, target) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/sbin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
            ("init", "sbin/init"),
            ("var/run", "/run"),
            ("etc/mtab", "/proc/mounts"),
        ] {
            symlink(target, self.at(link)).at("link", &self.at(link))?;
        }
        for (file, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
            ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
            ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
            ("etc/modules", BOOT_MODULES),
        ] {
            self.overlay(&Overlay::text(file, text))?;
        }
        Ok(())
    }

    /// Copies the files of the guest packages, then the libraries that their programs need.
    fn packages(&self) -> Result<()> {
        let mut files = BTreeSet::new();
        for package in GUEST_PACKAGES {
            files.extend(self.files_of(package)?);
        }
        for library in elf::needed(self.root.path(), files.iter().cloned())? {
            files.insert(library);
        }
        // Every program names this one; it is in no list of needed libraries.
        files.insert("usr/lib64/ld-linux-x86-64.so.2".into());
        files.iter().try_for_each(|file| self.copy(file))
    }

    fn files_of(&self, package: &str) -> Result<Vec<PathBuf>> {
        let info = self.root.path().join("var/lib/dpkg/info");
        let lists =
            [format!("{package}.list"), format!("{package}:amd64.list")].map(|n| info.join(n));
        let list = lists.iter().find(|list| list.exists()).ok_or_else(|| {
            Error::unfit(
                format!("the Debian root has no package {package}"),
                "Add it to the root's packages.",
            )
        })?;
        let text = fs::read_to_string(list).at("read", list)?;
        let files = text.lines().map(|line| {
            let file = line.trim_start_matches('/');
            // Packages may still name the folders of before the merge of /usr.
            let old = ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|old| file.starts_with(old));
            if old { format!("usr/{file}") } else { file.to_string() }
        });
        let wanted = files.filter(|file| !LEFT_OUT.iter().any(|prefix| file.starts_with(prefix)));
        Ok(wanted.map(PathBuf::from).filter(|file| self.root.path().join(file).is_file()).collect())
    }

    /// Copies one file of the root; of a link, the link and what it points to.
    pub(super) fn copy(&self, file: &Path) -> Result<()> {
        let (from, to) = (self.root.path().join(file), self.folder.join(file));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).at("make", folder)?;
        }
        if to.symlink_metadata().is_ok() {
            return Ok(());
        }
        let Ok(target) = fs::read_link(&from) else {
            fs::copy(&from, &to).at("copy", &from)?;
            return Ok(());
        };
        symlink(&target, &to).at("link", &to)?;
        let folder = file.parent().unwrap_or(Path::new(""));
        // Resolved by hand: the host must not follow an absolute link out of the root.
        self.copy(&normal(&folder.join(&target)))
    }

    /// Busybox stands in for whatever the packages do not bring.
    fn applets(&self, cache: &Cache, step: &Step) -> Result<()> {
        let list = self.folder.join("applets");
        let command = self
            .root
            .inside()
            .mount(&self.folder, "stage", Access::ReadWrite)
            .command("/bin/sh", &["-c", "busybox --list >/host/stage/applets"]);
        logged::run(command, "listing the applets of busybox", &cache.log("image"), step)?;
        for name in fs::read_to_string(&list).at("read", &list)?.lines() {
            let link = self.at("usr/bin").join(name);
            let taken = [&link, &self.at("usr/sbin").join(name)]
                .iter()
                .any(|p| p.symlink_metadata().is_ok());
            if !taken && name != "init" {
                symlink("busybox", &link).at("link", &link)?;
            }
        }
        fs::remove_file(&list).at("remove", &list)
    }

    fn install(&self, host: &Path, guest: &str) -> Result<()> {
        let mut overlay = Overlay::host(guest, host)?;
        overlay.mode = 0o755;
        self.overlay(&overlay)
    }

    pub(super) fn overlay(&self, overlay: &Overlay) -> Result<()> {
        let to = self.at(&overlay.guest);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).at("make", folder)?;
        }
        // A link of the packages is replaced, not written through.
        let _ = fs::remove_file(&to);
        fs::write(&to, overlay.bytes()?).at("write", &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(overlay.mode)).at("change", &to)
    }

    /// Programs laid over the image may need libraries that no package of it needed.
    fn libraries_of_overlays(&self, overlays: &[Overlay]) -> Result<()> {
        // Looked up by absolute path, so that they are read from here and libraries from the root.
        let programs = overlays.iter().map(|overlay| self.at(&overlay.guest));
        let programs = programs
            .chain([self.at("/sbin/init")])
            .filter(|p| p.extension() != Some("ko".as_ref()));
        elf::needed(self.root.path(), programs)?.iter().try_for_each(|file| self.copy(file))
    }

    /// Copies the modules uncompressed: the guest's processor is slower than the host's.
    fn modules(&self, cache: &Cache, kernel: &Kernel, step: &Step) -> Result<()> {
        const COPY: &str = "from=$1 to=$2; shift 2; for file; do \
            mkdir -p \"$to/${file%/*}\"; \
            case $file in \
                *.xz) xz -dc \"$from/$file\" >\"$to/${file%.xz}\" ;; \
                *.zst) zstd -qdc \"$from/$file\" >\"$to/${file%.zst}\" ;; \
                *) cp \"$from/$file\" \"$to/$file\" ;; \
            esac || exit 1; done; \
            cp \"$from/modules.builtin\" \"$from/modules.order\" \"$to/\"";
        let mut files = kernel.resolve(MODULES)?;
        for name in OPTIONAL_MODULES {
            // Not being there is the one error, and the reason why they are optional.
            files.extend(kernel.resolve(&[name]).unwrap_or_default());
        }
        let (from, to) = (
            format!("/usr/lib/modules/{}", kernel.release),
            format!("/host/stage/usr/lib/modules/{}", kernel.release),
        );
        let mut arguments = vec!["-c", COPY, "copy-modules", &from, &to];
        arguments.extend(files.iter().map(String::as_str));
        let inside = self.root.inside().mount(&self.folder, "stage", Access::ReadWrite);
        let command = inside.command("/bin/sh", &arguments);
        logged::run(command, "unpacking kernel modules", &cache.log("image"), step)
    }

    fn depmod(&self, cache: &Cache, kernel: &Kernel, step: &Step) -> Result<()> {
        let inside = self.root.inside().mount(&self.folder, "stage", Access::ReadWrite);
        let command = inside.command("/sbin/depmod", &["-b", "/host/stage", &kernel.release]);
        logged::run(command, "listing the modules of the image", &cache.log("image"), step)
    }

    fn pack(&self, to: &Path) -> Result<()> {
        let file = File::create(to).at("make", to)?;
        let mut archive = BufWriter::with_capacity(1 << 20, file);
        cpio::write(&self.folder, &mut archive).at("pack", to)?;
        archive.flush().at("write", to)
    }
}

/// Removes `.` and `..` by name, below the root.
fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            // An absolute target starts again at the root.
            Component::RootDir => normal.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    // Links in the root still name the folders of before the merge of /usr.
    match normal.components().next() {
        Some(Component::Normal(first))
            if ["bin", "sbin", "lib", "lib64"].iter().any(|n| first == *n) =>
        {
            Path::new("usr").join(normal)
        }
        _ => normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_below_the_root() {
        for (link, file) in [
            ("usr/lib/a/../b.so", "usr/lib/b.so"),
            ("usr/bin/../../../../etc/x", "etc/x"),
            ("/lib/x86_64-linux-gnu/c.so", "usr/lib/x86_64-linux-gnu/c.so"),
            ("./usr/./bin/d", "usr/bin/d"),
        ] {
            assert_eq!(normal(Path::new(link)), Path::new(file), "{link}");
        }
    }
}
