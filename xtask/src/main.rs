// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Developer commands of the Tongtu vNIC: `cargo xtask <command>`.

mod bench;
mod chaos;
mod ci;
mod compare;
mod driver;
mod fitness;
mod fuzz;
mod hosts;
mod test;
mod testbed;
mod tidy;
mod tools;
mod wire;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer commands of the Tongtu vNIC.
#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "\
Start with `cargo xtask testbed`: it sets the machine up (as root, on Debian 12 or 13), boots two\n\
guests and compares the vNIC with rxe and TCP. `cargo xtask test` runs every test.\n\
What is downloaded or built for guests is kept under $XDG_CACHE_HOME/tongtu-vnic."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot two guests on one vNIC daemon and compare vNIC, rxe and TCP; or guests of two hosts with bare verbs
    Testbed(testbed::Args),
    Chaos(chaos::Args),
    /// Measure what single operations of the device cost
    Bench(bench::Args),
    /// Run every test: unit, process guests, virtual machines, model checks
    Test(test::Args),
    Fuzz(fuzz::Args),
    /// Build the guest kernel module for the guest kernels
    Kmod(driver::KernelArgs),
    /// Build the rdma-core provider for the guests
    Provider,
    /// Build the guest images
    Image(driver::KernelArgs),
    /// Check formatting, lints, licences, unsafe code and the C header
    Tidy(tidy::Args),
    /// What continuous integration runs: tidy, then test
    Ci,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Testbed(args) => testbed::run(args),
        Command::Chaos(args) => chaos::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Kmod(args) => driver::kmod(&args),
        Command::Provider => driver::provider(),
        Command::Image(args) => driver::image(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Ci => ci::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
