// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs in C for the guests, from `testbed/guest-programs`, compiled in the root.
//!
//! A file `NAME.c` there becomes the program `NAME`; all `.c` files of a folder `NAME` together
//! become `vnic-NAME`. Both are linked with libibverbs and threads.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::{
    cache::{Cache, Key},
    image::Overlay,
    logged,
    progress::Step,
    root::{Access, Root},
};
use crate::error::{Doing, Error, Result};

/// Bumped when programs are compiled in another way.
const VERSION: u32 = 1;

/// Warnings are errors: what runs in the guests has to be as clean as the rest.
const OPTIONS: &[&str] =
    &["-O2", "-g", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-pthread"];

const LIBRARIES: &[&str] = &["-libverbs"];

/// A program that was compiled for the guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestProgram {
    /// Its name.
    pub name: String,
    /// The program, a path on the host.
    pub path: PathBuf,
}

impl GuestProgram {
    /// The file that puts it into the guests' `PATH`.
    ///
    /// # Errors
    /// When the program is gone.
    pub fn overlay(&self) -> Result<Overlay> {
        Overlay::host(format!("/usr/bin/{}", self.name), &self.path)
    }
}

/// Compiles the programs of `folder`, or finds those compiled before from the same sources; in the
/// order of their names.
pub(super) fn build(cache: &Cache, root: &Root, folder: &Path) -> Result<Vec<GuestProgram>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        entries.push(entry.at("read", folder)?.path());
    }
    entries.sort();
    let mut programs = Vec::new();
    for path in entries {
        let Some((name, sources)) = sources(&path)? else { continue };
        programs.push(compile(cache, root, name, &path, &sources)?);
    }
    Ok(programs)
}

/// The name of the program at `path` and the names of its sources; `None` if it is no program.
fn sources(path: &Path) -> Result<Option<(String, Vec<String>)>> {
    let text = |name: Option<&OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
    let is_source = |path: &Path| path.extension() == Some("c".as_ref());
    if !path.is_dir() {
        let own = || (text(path.file_stem()), vec![text(path.file_name())]);
        return Ok(is_source(path).then(own));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).at("read", path)? {
        let file = entry.at("read", path)?.path();
        if is_source(&file) {
            names.push(text(file.file_name()));
        }
    }
    names.sort();
    Ok((!names.is_empty()).then(|| (format!("vnic-{}", text(path.file_name())), names)))
}

fn compile(
    cache: &Cache,
    root: &Root,
    name: String,
    path: &Path,
    sources: &[String],
) -> Result<GuestProgram> {
    let mut key = Key::new("guest-program", VERSION).text(&root.key()).text(&name).path(path)?;
    for word in OPTIONS.iter().chain(LIBRARIES) {
        key = key.text(word);
    }
    let built = cache.get(&format!("guest-program-{name}"), &key, |at| {
        let step = Step::start(format!("compiling {name}"));
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        let inside = root
            .inside()
            .mount(folder, "source", Access::ReadOnly)
            .mount(at, "built", Access::ReadWrite)
            .folder("/host/source");
        let output = format!("/host/built/{name}");
        let mut words = OPTIONS.to_vec();
        words.extend(["-o", &output]);
        words.extend(sources.iter().map(String::as_str));
        words.extend(LIBRARIES);
        let log = cache.log(&format!("guest-program-{name}"));
        logged::run(inside.command("gcc", &words), &format!("compiling {name}"), &log, &step)?;
        step.done();
        Ok(())
    })?;
    let path = built.join(&name);
    if !path.exists() {
        let what = format!("{} does not hold {name}", built.display());
        return Err(Error::unfit(what, "Remove that folder, so that it is built again."));
    }
    Ok(GuestProgram { name, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_a_folder_are_programs() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("storm")).unwrap();
        fs::create_dir_all(at("headers")).unwrap();
        for file in ["one.c", "one.h", "storm/b.c", "storm/a.c", "storm/a.h", "headers/x.h"] {
            fs::write(at(file), "").unwrap();
        }
        let found = |name: &str| sources(&at(name)).unwrap();
        assert_eq!(found("one.c"), Some(("one".into(), vec!["one.c".into()])));
        assert_eq!(found("storm"), Some(("vnic-storm".into(), vec!["a.c".into(), "b.c".into()])));
        assert_eq!(found("one.h"), None);
        assert_eq!(found("headers"), None);
    }
}
