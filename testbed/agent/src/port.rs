// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the virtio-serial port that leads to the host.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
    time::Duration,
};

use vnic_guest_agent::PORT_NAME;

/// Opens the port, waiting a little for the driver to announce it.
pub fn open() -> io::Result<File> {
    for _ in 0..500 {
        if let Some(name) = find(Path::new("/sys/class/virtio-ports"))? {
            return OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(name));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no virtio-serial port is named {PORT_NAME}: is virtio_console loaded?"),
    ))
}

fn find(class: &Path) -> io::Result<Option<std::ffi::OsString>> {
    let entries = match fs::read_dir(class) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Ok(Some(entry.file_name()));
        }
    }
    Ok(None)
}
