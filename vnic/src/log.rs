// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Structured logs on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Environment variable with a filter in the syntax of `tracing`, in place of `-v`.
pub const FILTER: &str = "VNIC_LOG";

/// Starts logging. `verbosity` is the number of `-v`.
///
/// # Errors
///
/// The filter in the environment is not one.
pub fn start(format: LogFormat, verbosity: u8) -> anyhow::Result<()> {
    let filter = match std::env::var(FILTER) {
        Ok(filter) => EnvFilter::try_new(&filter)
            .map_err(|error| anyhow::anyhow!("{FILTER}={filter} is not a log filter: {error}"))?,
        Err(_) => EnvFilter::new(directives(verbosity)),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

/// The crates below log whatever a guest does wrong, without a limit; what matters of it is logged
/// by us, with one.
fn directives(verbosity: u8) -> &'static str {
    match verbosity {
        0 => "info,virtio_queue=off,vhost_user_backend=error,vhost=error",
        1 => "debug,virtio_queue=off,vhost_user_backend=warn,vhost=warn",
        _ => "trace",
    }
}
