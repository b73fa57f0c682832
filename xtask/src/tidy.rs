// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask tidy`.

use crate::tools::{self, cargo};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use vnic_abi::header;
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::workspace::Workspace;

/// What to check.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Format the sources and renew the C header, then check
    #[arg(long)]
    fix: bool,
    /// Only the checks of the project's own, without rustfmt and clippy
    #[arg(long)]
    quick: bool,
}

/// Runs every check and reports all that they find.
pub fn run(args: &Args) -> Result<()> {
    let root = tools::root();
    let header_path = root.join("guest-driver/kernel/vnic_abi.h");
    if args.fix {
        tools::run(cargo(&["fmt", "--all"]))?;
        std::fs::write(&header_path, header::c_header())?;
    }
    let mut faults = Vec::new();
    for path in sources(&root)? {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(&path);
        licence(name, &text, &mut faults);
        unsafe_reasons(name, &text, &mut faults);
    }
    if std::fs::read_to_string(&header_path).unwrap_or_default() != header::c_header() {
        faults.push("guest-driver/kernel/vnic_abi.h differs from the crate; run with --fix".into());
    }
    let document = std::fs::read_to_string(root.join("docs/abi.md")).unwrap_or_default();
    abi_document(&document, &mut faults);
    if !faults.is_empty() {
        bail!("{} faults\n{}", faults.len(), faults.join("\n"));
    }
    if !args.quick {
        tools::run(cargo(&["fmt", "--all", "--check"]))?;
        tools::run(cargo(&[
            "clippy",
            "--workspace",
            "--exclude",
            "vnic-provider",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))?;
        tools::install_for_verbs()?;
        tools::run(cargo(&[
            "clippy",
            "--package",
            "vnic",
            "--features",
            "verbs",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))?;
        Provision::prepare(Workspace::at(&root))
            .context("cannot set the machine up for the provider (`--quick` checks without)")?
            .lint_provider()?;
    }
    Ok(())
}

/// Files under version control, and new ones that are not ignored.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::process::Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("cannot run git (install it)")?;
    anyhow::ensure!(listed.status.success(), "git lists no files; is this a clone?");
    let names = String::from_utf8(listed.stdout).context("a file name that is not UTF-8")?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(|name| root.join(name))
        .filter(|path| path.is_file())
        .collect())
}

/// Files whose format has no comments, or that tools write.
fn has_no_comments(name: &Path) -> bool {
    let file = name.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    let kind = name.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    file == "Cargo.lock"
        || file.starts_with("LICENSE")
        || matches!(kind, "snap" | "json" | "png" | "svg" | "txt" | "proptest-regressions" | "out")
}

fn licence(name: &Path, text: &str, faults: &mut Vec<String>) {
    if has_no_comments(name) {
        return;
    }
    let line = text.lines().take(3).find(|line| line.contains("SPDX-License-Identifier: "));
    match line {
        None => faults.push(format!("{}: no SPDX line at its top", name.display())),
        Some(line) if name.starts_with("guest-driver/kernel") && !line.contains("GPL-2.0") => {
            faults.push(format!("{}: the kernel module is GPL-2.0", name.display()));
        }
        Some(_) => {}
    }
}

/// The compiler denies unsafe code and clippy asks for safety comments; this asks why each exception
/// exists at all: a reason on its line, or a safety comment right above it.
fn unsafe_reasons(name: &Path, text: &str, faults: &mut Vec<String>) {
    if name.extension().is_none_or(|kind| kind != "rs") {
        return;
    }
    let mut safe_above = false;
    for (number, line) in text.lines().map(str::trim_start).enumerate() {
        let attribute = line.trim_start_matches('#').trim_start_matches('!');
        let exception = attribute.starts_with("[allow(unsafe_code");
        if exception && !safe_above && !line.contains("//") && !line.contains("reason = ") {
            faults.push(format!(
                "{}:{}: an exception for unsafe code without a reason",
                name.display(),
                number + 1
            ));
        }
        safe_above = line.starts_with("// SAFETY:") || (safe_above && line.starts_with("//"));
    }
}

/// Everything in the header has a place in the prose, and sizes agree.
fn abi_document(document: &str, faults: &mut Vec<String>) {
    for s in header::ALL_STRUCTS {
        let entry = format!("`{}` ({} bytes)", s.c_name, s.size);
        if !document.contains(&entry) {
            faults.push(format!("docs/abi.md does not describe {entry}"));
        }
    }
    let codes = header::ALL_CODES.iter().map(|codes| (codes.c_prefix, codes.values));
    let flags = header::ALL_FLAGS.iter().map(|flags| (flags.c_prefix, flags.values));
    for (prefix, values) in codes.chain(flags) {
        for (name, value) in values {
            if !document.contains(&format!("`{prefix}_{name}` ({value:#x})")) {
                faults
                    .push(format!("docs/abi.md does not describe `{prefix}_{name}` ({value:#x})"));
            }
        }
    }
    let version =
        format!("Version {}.{}", vnic_abi::ABI_VERSION >> 16, vnic_abi::ABI_VERSION & 0xffff);
    if !document.contains(&version) {
        faults.push(format!("docs/abi.md does not say \"{version}\""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(check: impl Fn(&mut Vec<String>)) -> usize {
        let mut faults = Vec::new();
        check(&mut faults);
        faults.len()
    }

    #[test]
    fn a_file_without_a_licence_is_found() {
        let file = Path::new("vnic/src/lib.rs");
        assert_eq!(faults(|f| licence(file, "//! Text.\n", f)), 1);
        assert_eq!(faults(|f| licence(file, "// SPDX-License-Identifier: MIT\n", f)), 0);
        let module = Path::new("guest-driver/kernel/main.c");
        assert_eq!(faults(|f| licence(module, "// SPDX-License-Identifier: MIT\n", f)), 1);
    }

    #[test]
    fn an_exception_without_a_reason_is_found() {
        let file = Path::new("a.rs");
        let bare = concat!("#[allow(", "unsafe_code)]\n");
        assert_eq!(faults(|f| unsafe_reasons(file, bare, f)), 1);
        let reasoned = concat!("#[allow(", "unsafe_code)] // reason: ffi\n");
        assert_eq!(faults(|f| unsafe_reasons(file, reasoned, f)), 0);
    }

    #[test]
    fn an_empty_document_describes_nothing() {
        assert!(faults(|f| abi_document("", f)) > header::ALL_STRUCTS.len());
    }
}
