// SPDX-License-Identifier: Apache-2.0 OR MIT
//! libfabric's shared-memory provider, by its own `fi_pingpong`. Debian has no other of its
//! measuring programs, so that there is no stream.

use super::{
    super::{Effort, cores::Cores},
    Baseline, Found, Metric, ONE_WAY, SAMPLES, tool, trips,
};
use crate::error::{Error, Result};

/// The program, and the package of Debian that has it.
const PROGRAM: &str = "fi_pingpong";
/// See [`PROGRAM`].
pub const PACKAGE: &str = "libfabric-bin";

/// The baseline.
pub struct Libfabric;

impl Baseline for Libfabric {
    fn name(&self) -> &'static str {
        "libfabric shm"
    }

    fn round(&mut self, cores: &Cores, effort: Effort) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for bytes in ONE_WAY {
            let port = tool::free_port()?.to_string();
            let command = |core, option| {
                let mut command = tool::on_core(core, PROGRAM);
                command.args(["-p", "shm", "-e", "rdm", option, &port]);
                command.args(["-S", &bytes.to_string()]);
                let count = SAMPLES as u64 * trips(effort, bytes);
                command.args(["-I", &count.to_string()]);
                command
            };
            let mut client = command(cores.client, "-P");
            client.arg("127.0.0.1");
            let server = command(cores.worker, "-B");
            let text = tool::run(server, client, port.parse().unwrap_or_default(), PACKAGE)?;
            found.push(Found::new(Metric::OneWay, bytes, vec![parse(&text)?]));
        }
        Ok(found)
    }

    fn note(&self) -> Option<&'static str> {
        Some("fi_pingpong -p shm, messages; Debian packages no program that measures a stream")
    }
}

/// Nanoseconds of one way, from a table with one line of numbers.
fn parse(text: &str) -> Result<f64> {
    let unread = |what: &str| Error::Unread {
        program: PROGRAM.into(),
        what: what.into(),
        output: text.into(),
    };
    let mut lines = text.lines().skip_while(|line| !line.starts_with("bytes"));
    let header = lines.next().ok_or_else(|| unread("there is no header"))?;
    let column = header.split_whitespace().position(|heading| heading == "usec/xfer");
    let column = column.ok_or_else(|| unread("there is no column usec/xfer"))?;
    let words = lines.next().unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    // It is half of there and back: transfers of both directions are counted.
    let number = words.get(column).and_then(|word| word.parse::<f64>().ok());
    Ok(1e3 * number.ok_or_else(|| unread("there is no line of numbers"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 1.17 prints it.
    const OUTPUT: &str = "\
bytes   #sent   #ack     total       time     MB/sec    usec/xfer   Mxfers/sec
8       20k     =20k     312k        0.03s     10.78       0.74       1.35
";

    #[test]
    fn the_time_of_a_transfer_is_read() {
        assert_eq!(parse(OUTPUT).unwrap(), 740.0);
        assert!(parse("bytes   #sent\n").is_err());
        assert!(parse("").unwrap_err().to_string().contains("no header"));
    }
}
