// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that show or check the device: `ibv_devinfo` and `ibv_rc_pingpong`.

use std::time::Duration;

use super::{Failed, Run};
use crate::{
    error::{Error, Result},
    guest::Guest,
    measure::{Measurement, Program, Transport, Values, sizes},
    report::Check,
    workload::{
        pingpong::{self, Options},
        rdma::Device,
    },
};

const LIMIT: Duration = Duration::from_secs(60);

/// Polled for, which gives the number in the table; then checked; then with completion events.
const PING_PONGS: [Options; 4] = [
    Options { bytes: 4096, iterations: 50, check: false, events: false },
    Options { bytes: 4096, iterations: 10, check: true, events: false },
    Options { bytes: 1 << 20, iterations: 4, check: true, events: false },
    Options { bytes: 4096, iterations: 20, check: true, events: true },
];

/// Those of a round: all in the first, then what is measured anew, if anything is.
pub(super) fn ping_pongs(options: &super::Options, round: usize) -> &'static [Options] {
    match round {
        0 => &PING_PONGS,
        _ if options.repeat_all => &PING_PONGS[..1],
        _ => &[],
    }
}

impl Run<'_> {
    /// `ibv_devinfo -v` in both guests.
    pub(super) fn show(&mut self, devices: &[Device; 2]) -> std::result::Result<(), Failed> {
        let program = Program::Devinfo;
        let result = self.stage(format!("{program} -v"), |run| {
            let texts = run.pair.guests().into_iter().zip(devices);
            let texts = texts.map(|(guest, device)| show(guest, &device.name));
            texts.collect::<Result<Vec<_>>>().map(|mut texts| texts.swap_remove(0))
        })?;
        self.report.checks.push(Check {
            program,
            transport: Transport::Vnic,
            options: "-v".into(),
            contents_checked: false,
            result,
        });
        Ok(())
    }

    pub(super) fn ping_pong(
        &mut self,
        transport: Transport,
        devices: &[Device; 2],
        round: usize,
    ) -> std::result::Result<(), Failed> {
        let program = Program::RcPingpong;
        for options in ping_pongs(self.options, round) {
            let (size, flags) = (sizes::text(options.bytes), options.flags().join(" "));
            let name = format!("{program} {flags} over {transport}, {size}");
            let trips = self.stage(name, |run| pingpong::run(run.pair, devices, options, LIMIT))?;
            if round == 0 {
                self.report.checks.push(Check {
                    program,
                    transport,
                    options: flags,
                    contents_checked: options.check,
                    result: format!(
                        "{} round trips of {size}, {:.1} us each",
                        trips.iterations, trips.average
                    ),
                });
            }
            // The first of a size is the plain one, and only that is compared.
            if !options.check && !options.events {
                self.taken.add(Measurement::new(
                    Some(program),
                    transport,
                    trips.bytes,
                    trips.iterations,
                    Values::RoundTrip { average: trips.average },
                ));
            }
        }
        Ok(())
    }
}

/// Returns a line about the device.
fn show(guest: &Guest, device: &str) -> Result<String> {
    let text = guest.run(["ibv_devinfo", "-v", "-d", device], LIMIT)?.stdout_text();
    summary(&text)
}

fn summary(text: &str) -> Result<String> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let value = lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
        value.ok_or_else(|| unread(format!("it does not tell {name}"), text))
    };
    let state = value("state")?;
    if !state.starts_with("PORT_ACTIVE") {
        return Err(unread(format!("the port is in the state {state}"), text));
    }
    let [id, mtu, link] = [value("hca_id")?, value("active_mtu")?, value("link_layer")?];
    Ok(format!("{id} is active, MTU {mtu}, link layer {link}"))
}

fn unread(what: String, text: &str) -> Error {
    Error::Unread { program: Program::Devinfo.name().into(), what, output: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "hca_id:\tvnic0\n\ttransport:\t\t\tInfiniBand (0)\n\t\tport:\t1\n\
        \t\t\tstate:\t\t\tPORT_ACTIVE (4)\n\t\t\tactive_mtu:\t\t1024 (3)\n\t\t\tlink_layer:\t\tEthernet\n";

    #[test]
    fn an_active_device_is_summed_up() {
        let line = summary(TEXT).unwrap();
        assert_eq!(line, "vnic0 is active, MTU 1024 (3), link layer Ethernet");
    }

    #[test]
    fn a_port_that_is_down_is_an_error() {
        let error = summary(&TEXT.replace("PORT_ACTIVE", "PORT_DOWN")).unwrap_err().to_string();
        assert!(error.contains("PORT_DOWN"), "{error}");
        assert!(summary("No IB devices found\n").is_err());
    }
}
