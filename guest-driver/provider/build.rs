// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes Rust bindings of libibverbs' private provider interface, and links the guest's libibverbs.
//!
//! The interface has a number, which is part of the name of the provider's file and of symbols. It
//! differs from one distribution release to the next, so nothing of it is kept in this repository:
//! everything is made from the guest distribution's own source package and libraries.

use std::env;
use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Where the guest's libibverbs lies below its root.
const LIBRARY: &str = "usr/lib/x86_64-linux-gnu/libibverbs.so.1";

fn main() {
    if let Err(error) = build() {
        eprintln!("vnic-provider: {error}");
        std::process::exit(1);
    }
}

fn build() -> Outcome<()> {
    let source = input(
        "VNIC_RDMA_CORE_SRC",
        "the unpacked rdma-core source of the guest's distribution \
         (apt-get source --download-only rdma-core, then tar xf rdma-core_*.orig.tar.*)",
        "libibverbs/driver.h",
    )?;
    let root = input(
        "VNIC_GUEST_ROOT",
        "a root directory of the guest's distribution with libibverbs-dev, libc6-dev and \
         linux-libc-dev installed (mmdebstrap makes one)",
        LIBRARY,
    )?;
    let pabi = private_abi(&source, &root)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let include = include_tree(&source, &out.join("include"), pabi)?;
    bindings(&root, &include, &out.join("bindings.rs"), pabi)?;

    // By path and not by -L, so that no other library of the guest is taken for one of this machine.
    println!("cargo:rustc-cdylib-link-arg={}", root.join(LIBRARY).display());
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    println!("cargo:rustc-env=VNIC_PABI_VERSION={pabi}");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

/// A directory named by an environment variable, which must contain `proof`.
fn input(variable: &str, what: &str, proof: &str) -> Outcome<PathBuf> {
    println!("cargo:rerun-if-env-changed={variable}");
    let Some(value) = env::var_os(variable) else {
        return Err(format!(
            "{variable} is not set; it must name {what}. `cargo xtask provider` does all this."
        )
        .into());
    };
    let path = fs::canonicalize(&value)
        .map_err(|e| format!("{variable}={}: {e}; it must name {what}", value.display()))?;
    let proof = path.join(proof);
    if !proof.exists() {
        return Err(format!("{} is missing; {variable} must name {what}", proof.display()).into());
    }
    println!("cargo:rerun-if-changed={}", proof.display());
    Ok(path)
}

/// The number of the private interface, on which source and library must agree.
fn private_abi(source: &Path, root: &Path) -> Outcome<u32> {
    let lists = fs::read_to_string(source.join("CMakeLists.txt"))?;
    let number = lists
        .split_once("set(IBVERBS_PABI_VERSION \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .and_then(|(number, _)| number.parse::<u32>().ok())
        .ok_or("CMakeLists.txt of rdma-core sets no IBVERBS_PABI_VERSION")?;
    let symbol = format!("IBVERBS_PRIVATE_{number}\0");
    let library = fs::read(root.join(LIBRARY))?;
    if !library.windows(symbol.len()).any(|window| window == symbol.as_bytes()) {
        return Err(format!(
            "the rdma-core source has private interface {number}, the guest's libibverbs another one; \
             take the source package of the guest's own release"
        )
        .into());
    }
    Ok(number)
}

/// Lays out headers as rdma-core's own build does.
fn include_tree(source: &Path, include: &Path, pabi: u32) -> Outcome<PathBuf> {
    if include.exists() {
        fs::remove_dir_all(include)?;
    }
    fs::create_dir_all(include.join("kernel-abi"))?;
    for (name, target) in [
        ("infiniband", "libibverbs"),
        ("rdma", "kernel-headers/rdma"),
        ("ccan", "ccan"),
        ("util", "util"),
    ] {
        symlink(source.join(target), include.join(name))?;
    }
    fs::write(
        include.join("config.h"),
        format!(
            "#define IBVERBS_PABI_VERSION {pabi}\n#define HAVE_TYPEOF 1\n\
             #define HAVE_STATEMENT_EXPR 1\n#define HAVE_BUILTIN_TYPES_COMPATIBLE_P 1\n\
             #define VERBS_IOCTL_ONLY 0\n#define VERBS_WRITE_ONLY 0\n"
        ),
    )?;
    let script = source.join("buildlib/make_abi_structs.py");
    let status = Command::new("python3")
        .arg(&script)
        .arg(source.join("kernel-headers/rdma/ib_user_verbs.h"))
        .arg(include.join("kernel-abi/ib_user_verbs.h"))
        .status()
        .map_err(|e| format!("python3, which runs {}: {e}", script.display()))?;
    if !status.success() {
        return Err(format!("{} failed: {status}", script.display()).into());
    }
    Ok(include.to_owned())
}

fn bindings(root: &Path, include: &Path, output: &Path, pabi: u32) -> Outcome<()> {
    bindgen::Builder::default()
        .header_contents("vnic_provider.h", "#include <infiniband/driver.h>\n")
        .clang_arg(format!("--sysroot={}", root.display()))
        .clang_arg(format!("-I{}", include.display()))
        .clang_arg("-D_GNU_SOURCE")
        .allowlist_function("ibv_cmd_.*|_?verbs_.*")
        .allowlist_type("verbs_.*|ibv_.*|ib_uverbs_.*|rdma_driver_id")
        .allowlist_var("IBV_.*|VERBS_.*|RDMA_DRIVER_.*")
        .blocklist_function("verbs_get_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .derive_debug(false)
        .layout_tests(true)
        .use_core()
        .raw_line(format!("pub use self::verbs_register_driver_{pabi} as verbs_register_driver;"))
        .generate()
        .map_err(|e| {
            format!("{e}; bindgen needs libclang and its headers (apt-get install libclang-dev)")
        })?
        .write_to_file(output)?;
    Ok(())
}
