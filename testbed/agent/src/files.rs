// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files to and from the host.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use vnic_guest_agent::{frame::CHUNK, message::Reply};

use crate::serve::Replies;

/// Writes or appends one chunk.
pub fn write(path: &str, mode: u32, append: bool, data: &[u8]) -> io::Result<()> {
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).mode(mode).write(true);
    // Append mode is not asked of the kernel: files of sysfs and procfs refuse it.
    if append {
        options.append(true)
    } else {
        options.truncate(true)
    };
    options.open(path)?.write_all(data)
}

/// Sends a file in chunks.
pub fn read(path: &str, replies: &Replies) -> io::Result<()> {
    let mut file = File::open(path)?;
    loop {
        let mut data = vec![0; CHUNK];
        let n = file.read(&mut data)?;
        if n == 0 {
            return Ok(());
        }
        data.truncate(n);
        replies.send(Reply::Data(data.into()));
    }
}
