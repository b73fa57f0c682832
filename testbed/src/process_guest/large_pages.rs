// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file in large pages of the host, whatever the host's setting for memfds is.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

/// An empty file without a name, on a file system of its own that no other process sees.
///
/// # Errors
///
/// If this process may not mount one, or the host knows no large pages.
pub(super) fn file() -> rustix::io::Result<File> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "huge", "always")?;
    fsconfig_set_string(context.as_fd(), "size", "100%")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::empty();
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = openat(root, ".", flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(fd))
}
