// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Measures operations of the verbs between two ends, each of which is the host's own device or a guest's: the same
//! loops for both, so that what differs is the device. `cargo xtask testbed --wire` runs it and reads what it prints.
//!
//! ```text
//! wire_bench --bare rxe0 --listen 0.0.0.0:7000
//! wire_bench --bare rxe0 --connect 10.77.0.1:7000 --plan '{"sizes":[8],"millis":200,...}'
//! wire_bench --guest a.sock --host 1 --listen 0.0.0.0:7000
//! wire_bench --guest a.sock --host 1 --by rxe0 --listen 0.0.0.0:7000   # known by the address of its host
//! ```
//!
//! The end that connects leads and measures.

mod device;
mod ends;
mod guest;
mod host;
mod measure;
mod spent;
mod talk;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use device::Device;
use talk::{Say, Talk};
use vnic_testbed::bench::wire::said::Plan;

const USAGE: &str = "usage: wire_bench (--bare DEVICE | --guest SOCKET --host NUMBER [--by DEVICE]) \
     (--listen ADDRESS | --connect ADDRESS --plan JSON)";

#[derive(Default)]
struct Options {
    bare: Option<String>,
    guest: Option<String>,
    host: Option<String>,
    by: Option<String>,
    listen: Option<String>,
    connect: Option<String>,
    plan: Option<String>,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let option = match word.as_str() {
            "--bare" => &mut options.bare,
            "--guest" => &mut options.guest,
            "--host" => &mut options.host,
            "--by" => &mut options.by,
            "--listen" => &mut options.listen,
            "--connect" => &mut options.connect,
            "--plan" => &mut options.plan,
            _ => bail!("{word} is no option; {USAGE}"),
        };
        *option = Some(words.next().with_context(|| format!("{word} needs a value; {USAGE}"))?);
    }
    Ok(options)
}

fn run(options: &Options) -> Result<()> {
    // What is measured is known before the device is opened: a guest has as much memory as that needs.
    let (mut talk, plan, leads) = match (&options.listen, &options.connect, &options.plan) {
        (Some(address), None, None) => {
            let mut talk = Talk::listen(address)?;
            let Some(Say::Plan(plan)) = talk.hear()? else { bail!("the other end has no plan") };
            (talk, plan, false)
        }
        (None, Some(address), Some(plan)) => {
            let plan = serde_json::from_str::<Plan>(plan).context("--plan")?;
            (Talk::connect(address)?, plan, true)
        }
        _ => bail!("{USAGE}"),
    };
    match (&options.bare, &options.guest, &options.host) {
        (Some(device), None, None) => act(&host::Host::open(device)?, &mut talk, &plan, leads),
        (None, Some(socket), Some(host)) => {
            let host = host.parse().context("--host is a number of 1 to 254")?;
            let pieces = plan.sizes.iter().map(|bytes| 2 * bytes);
            let pieces = pieces.chain(plan.regions.iter().copied());
            let most = pieces.chain([u64::from(plan.pages) * 4096]).max().unwrap_or_default();
            let by = options.by.as_ref().map(|name| host::gid(name)).transpose()?;
            act(&guest::Guest::boot(socket.as_ref(), host, most, by), &mut talk, &plan, leads)
        }
        _ => bail!("{USAGE}"),
    }
}

fn act<D: Device>(device: &D, talk: &mut Talk, plan: &Plan, leads: bool) -> Result<()> {
    if leads { ends::lead(device, talk, plan) } else { ends::follow(device, talk, plan) }
}
