// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Adds files to an image for one run, by a second archive behind the first: the kernel unpacks one after the other.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
};

use super::{
    cpio, elf,
    image::{Image, Overlay, Stage},
    root::Root,
};
use crate::{
    error::{Doing, Result},
    vm::RunDir,
};

/// Archives begin at multiples of this, counted from the start of the first.
const ALIGNMENT: u64 = 4;

/// Copies the initramfs of `image` into the folder of the run, with `files` behind it.
pub(super) fn build(root: &Root, image: &Image, files: &[Overlay], run: &RunDir) -> Result<Image> {
    let folder = tempfile::tempdir_in(run.path()).at("make a folder in", run.path())?;
    let stage = Stage { root, folder: folder.path().into() };
    files.iter().try_for_each(|file| stage.overlay(file))?;
    let programs = files.iter().map(|file| stage.at(&file.guest));
    // Some of them are in the image already, and are replaced by themselves.
    elf::needed(root.path(), programs)?.iter().try_for_each(|file| stage.copy(file))?;

    let initramfs = folder.path().with_extension("initramfs");
    let length = fs::copy(&image.initramfs, &initramfs).at("copy", &image.initramfs)?;
    let file = File::options().append(true).open(&initramfs).at("open", &initramfs)?;
    let mut archive = BufWriter::with_capacity(1 << 20, file);
    let gap = length.next_multiple_of(ALIGNMENT) - length;
    archive.write_all(&[0; ALIGNMENT as usize][..gap as usize]).at("write", &initramfs)?;
    cpio::write(&stage.folder, &mut archive).at("write", &initramfs)?;
    archive.flush().at("write", &initramfs)?;
    Ok(Image { kernel: image.kernel.clone(), initramfs })
}
