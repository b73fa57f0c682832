// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Unpacks a kernel image, so that the guest need not: an emulated processor takes seconds for it.
//!
//! What is inside is an ELF file that QEMU starts by itself (the PVH entry).

use std::{fs, path::Path};

use super::{
    logged,
    progress::Step,
    root::{Access, Root},
};
use crate::error::{Doing, Result};

/// The start of the set-up header, after which its fields have fixed places (boot protocol 2.08).
const MAGIC_AT: usize = 0x202;
const SETUP_SECTORS_AT: usize = 0x1f1;
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LENGTH_AT: usize = 0x24c;
const SECTOR: usize = 512;

/// Writes the unpacked image of `packed` to `to`, or a copy of it if it is packed in another way.
pub(super) fn unpack(root: &Root, packed: &Path, to: &Path, log: &Path, step: &Step) -> Result<()> {
    let image = fs::read(packed).at("read", packed)?;
    let Some((payload, program)) = payload(&image).and_then(|p| Some((p, program(p)?))) else {
        fs::copy(packed, to).at("copy", packed)?;
        return Ok(());
    };
    let (folder, name) = (to.parent().unwrap_or(to), to.file_name().unwrap_or_default());
    let raw = folder.join("payload");
    fs::write(&raw, payload).at("write", &raw)?;
    let script = format!("{program} -dc </host/at/payload >\"/host/at/$1\"");
    let name = name.to_string_lossy();
    let inside = root.inside().mount(folder, "at", Access::ReadWrite);
    let command = inside.command("/bin/sh", &["-c", &script, "unpack", &name]);
    logged::run(command, &format!("unpacking {}", packed.display()), log, step)?;
    fs::remove_file(&raw).at("remove", &raw)
}

/// The compressed kernel inside an image.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if image.get(MAGIC_AT..MAGIC_AT + 4)? != b"HdrS" {
        return None;
    }
    // By the protocol, 0 means 4.
    let sectors = match *image.get(SETUP_SECTORS_AT)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + word(PAYLOAD_OFFSET_AT)?;
    // The last four bytes are the unpacked size, which the kernel's build appends.
    let end = start.checked_add(word(PAYLOAD_LENGTH_AT)?)?.checked_sub(4)?;
    image.get(start..end)
}

fn program(payload: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], _); 3] =
        [(b"\x28\xb5\x2f\xfd", "zstd -q"), (b"\xfd7zXZ\0", "xz"), (b"\x1f\x8b", "gzip")];
    known.into_iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, program)| program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 0x100];
        image[SETUP_SECTORS_AT] = 1;
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET_AT..PAYLOAD_OFFSET_AT + 4].copy_from_slice(&0x100u32.to_le_bytes());
        let length = payload.len() as u32 + 4;
        image[PAYLOAD_LENGTH_AT..PAYLOAD_LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0; 4]);
        image
    }

    #[test]
    fn the_payload_is_found() {
        let image = image(b"\x28\xb5\x2f\xfdrest");
        let payload = payload(&image).unwrap();
        assert_eq!(payload, b"\x28\xb5\x2f\xfdrest");
        assert_eq!(program(payload), Some("zstd -q"));
    }

    #[test]
    fn a_cut_or_foreign_image_has_none() {
        let whole = image(b"\x1f\x8bx");
        assert_eq!(payload(&whole[..whole.len() - 5]), None);
        assert_eq!(payload(b"\x7fELF"), None);
        assert_eq!(program(b"unknown"), None);
    }
}
