// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The C compiler sees the same layout as Rust does.

use std::process::Command;
use vnic_abi::header;

fn compile(source: &str) -> std::process::Output {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("abi.c");
    std::fs::write(&file, source).expect("source written");
    Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Wpadded", "-Werror", "-c", "-o"])
        .arg(dir.path().join("abi.o"))
        .arg(&file)
        .output()
        .expect("a C compiler (install gcc)")
}

/// Sizes and offsets are asserted by the header itself; `-Wpadded` refuses hidden holes.
#[test]
fn header_compiles_with_every_size_and_offset() {
    let out = compile(&header::c_header());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_wrong_offset_is_found() {
    let wrong = header::c_header().replacen("rkey) == 20", "rkey) == 24", 1);
    assert_ne!(wrong, header::c_header(), "the text to spoil is there");
    assert!(!compile(&wrong).status.success());
}

#[test]
fn committed_header_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernel/vnic_abi.h");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    if std::env::var_os("VNIC_BLESS").is_some() {
        std::fs::write(path, header::c_header()).expect("header written");
        return;
    }
    assert!(committed == header::c_header(), "run `cargo xtask tidy --fix` to renew {path}");
}
