// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Process guests on ports of one daemon that watch what they are told about their ports, while the first two of them
//! go on writing to each other.
//!
//! ```text
//! port_events 2 a.sock b.sock lonely.sock
//! ```
//!
//! Prints `ready`, and a line of JSON for each event. Ends when every port has been told so often that its wire is back, with a line
//! that says how many WRITEs between the first two were carried out while it was not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vnic_abi::config::Features;
use vnic_abi::cqe::WcStatus;
use vnic_abi::event::{EventKind, PORT_STILL_REACHES};
use vnic_testbed::process_guest::GuestOptions;
use vnic_testbed::process_guest::verbs::{Endpoint, SendWr, connect};

/// The first of the guests' addresses.
const FIRST: u8 = 11;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(240);

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let times: usize = words.next().context("how often?")?.parse()?;
    let sockets: Vec<PathBuf> = words.map(PathBuf::from).collect();
    ensure!(sockets.len() >= 2, "two sockets at least: those of ports that reach each other");
    let options = GuestOptions { init: Some(Features::PORT_EVENTS), ..GuestOptions::default() };
    let boot = |(socket, host): (&PathBuf, u8)| Endpoint::boot_with(socket, host, options.clone());
    let guests: Vec<Endpoint> = sockets.iter().zip(FIRST..).map(boot).collect();
    let (one, other) = (guests[0].qp(), guests[1].qp());
    connect(&one, &other);
    let (to, mr) = guests[1].region(64);
    println!("ready");

    let until = Instant::now() + LIMIT;
    let (mut seen, mut back) = (vec![0; guests.len()], vec![0; guests.len()]);
    let (mut down, mut writes, mut meanwhile) = (false, 0u64, 0u64);
    while back.iter().any(|&back| back < times) {
        ensure!(Instant::now() < until, "told only {back:?} times of {times} that it is back");
        for (number, guest) in guests.iter().enumerate() {
            let events = guest.driver.async_events();
            for event in &events[seen[number]..] {
                let kind = EventKind(event.kind.get());
                let partly = event.cookie.get() & PORT_STILL_REACHES != 0;
                println!("{{\"port\":{number},\"event\":\"{kind:?}\",\"partly\":{partly}}}");
                back[number] += usize::from(kind == EventKind::PortUp);
                if number == 0 {
                    down = kind == EventKind::PortDown;
                }
            }
            seen[number] = events.len();
        }
        writes += 1;
        let word = writes.to_le_bytes();
        one.post_send(&SendWr::write(&[], to.addr(), mr.rkey()).inline(&word));
        let done = one.send_cq.wait();
        ensure!(done.status == WcStatus::Success, "WRITE {writes}: {:?}", done.status);
        ensure!(to.read(0, 8) == word, "WRITE {writes} has not arrived");
        meanwhile += u64::from(down);
        std::thread::sleep(PAUSE);
    }
    println!("{{\"writes\":{writes},\"meanwhile\":{meanwhile}}}");
    Ok(())
}
