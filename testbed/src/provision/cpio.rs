// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writes a folder as a cpio archive in the "newc" format, which the kernel unpacks at boot.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use walkdir::WalkDir;

const FILE_TYPE: u32 = 0o170000;
const CHARACTER_DEVICE: u32 = 0o020000;

/// Writes everything below `folder`, owned by root, and a `/dev/console` for the first process.
pub(super) fn write(folder: &Path, archive: &mut impl Write) -> io::Result<()> {
    let mut writer = Writer { archive, written: 0, inode: 0 };
    for entry in WalkDir::new(folder).min_depth(1).sort_by_file_name() {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let name = entry.path().strip_prefix(folder).map_err(io::Error::other)?;
        let kind = entry.file_type();
        let mut content: Box<dyn Read> = if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            Box::new(io::Cursor::new(target.as_os_str().as_bytes().to_vec()))
        } else if kind.is_file() {
            Box::new(fs::File::open(entry.path())?)
        } else {
            Box::new(io::empty())
        };
        let size = if kind.is_dir() { 0 } else { metadata.len() };
        writer.entry(name.as_os_str().as_bytes(), metadata.mode(), size, (0, 0), &mut content)?;
    }
    // The kernel opens this before anything is mounted, and /dev/null is of use as early.
    for (name, minors) in [(&b"dev/console"[..], (5, 1)), (b"dev/null", (1, 3))] {
        writer.entry(name, CHARACTER_DEVICE | 0o666, 0, minors, &mut io::empty())?;
    }
    writer.entry(b"TRAILER!!!", 0, 0, (0, 0), &mut io::empty())
}

struct Writer<'a, W> {
    archive: &'a mut W,
    written: u64,
    inode: u32,
}

impl<W: Write> Writer<'_, W> {
    fn entry(
        &mut self,
        name: &[u8],
        mode: u32,
        size: u64,
        device: (u32, u32),
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| io::Error::other("a file is over 4 GiB"))?;
        self.inode += 1;
        let links = if mode & FILE_TYPE == 0o040000 { 2 } else { 1 };
        let header = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        let mut text = String::from("070701");
        for field in header {
            text.push_str(&format!("{field:08x}"));
        }
        self.bytes(text.as_bytes())?;
        self.bytes(name)?;
        self.bytes(&[0])?;
        self.pad()?;
        let copied = io::copy(&mut content.take(size.into()), self.archive)?;
        if copied != u64::from(size) {
            return Err(io::Error::other("a file shrank while it was packed"));
        }
        self.written += copied;
        self.pad()
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.archive.write_all(bytes)
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) -> io::Result<()> {
        let over = (self.written % 4) as usize;
        self.bytes(&[0; 3][..(4 - over) % 4])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_archive_unpacks_to_what_was_packed() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("usr/bin")).unwrap();
        fs::create_dir(from.join("dev")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("usr/bin/odd"), "12345").unwrap();
        fs::write(from.join("usr/empty"), "").unwrap();
        std::os::unix::fs::symlink("usr/bin", from.join("bin")).unwrap();
        let mut archive = Vec::new();
        write(&from, &mut archive).unwrap();

        let mut command = Command::new("busybox");
        command.args(["cpio", "-idm"]).current_dir(&to);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut unpack) = command.spawn() else {
            // Without an unpacker at hand the boot of a guest is the test.
            assert!(archive.starts_with(b"070701"));
            return;
        };
        unpack.stdin.take().unwrap().write_all(&archive).unwrap();
        unpack.wait().unwrap();
        assert_eq!(fs::read(to.join("bin/odd")).unwrap(), b"12345");
        assert_eq!(fs::read(to.join("usr/empty")).unwrap(), b"");
    }
}
