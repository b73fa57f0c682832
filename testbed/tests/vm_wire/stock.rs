// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hosts without the daemon: stock programs over their RDMA devices, with a good cable and a bad one.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnic_testbed::{
    Error,
    lab::{Cable, Counters, HostVm, Netem, two_hosts},
    provision::{Provision, workspace::Workspace},
    topology::NETDEV,
    workload::{end::End, perftest, pingpong},
};

/// Longest run of a program; on an idle machine it takes two seconds, and three over a cable that loses packets.
const LIMIT: Duration = Duration::from_secs(30);

/// The kernel's rxe may stop for good after it has lost a packet, about once in two hundred, see
/// [`super::mended`]. Programs to which that happens are run again, at most this often.
const TRIES: usize = 5;

/// Seen in a hundred packets, which every program sends several times.
const LOSS: Netem = Netem {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    loss: 1.0,
    duplicate: 0.0,
    reorder: 0.0,
};

#[test]
fn stock_programs_run_between_two_devices_of_one_host() -> Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    let host = HostVm::boot(&provision, &[])?;
    let cable = Cable::lay(host.guest())?;
    let good = watch(&cable, || run_all(cable.ends()))?;
    ensure!(good > 0, "nothing was sent through the devices");

    cable.spoil(&LOSS)?;
    let before = cable.counters()?;
    run_all_through_loss(cable.ends())?;
    let lossy = grown(&before, &cable.counters()?);
    was_mended_by_sending_again(&lossy)?;
    cable.mend()?;

    // All that it made is gone, so it can be laid again.
    cable.remove()?;
    let cable = Cable::lay(host.guest())?;
    ping_pong(cable.ends(), 4096)?;
    Ok(())
}

#[test]
fn stock_programs_run_between_two_hosts() -> Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    let (_pair, ends) = two_hosts(&provision, &[])?;
    run_all(&ends)?;
    let read = |end: &End| Counters::read(end.place.guest(), &end.device.name);
    let before = [read(&ends[0])?, read(&ends[1])?];
    for end in &ends {
        LOSS.apply(&end.place, NETDEV)?;
    }
    run_all_through_loss(&ends)?;
    let lossy = grown(&before, &[read(&ends[0])?, read(&ends[1])?]);
    was_mended_by_sending_again(&lossy)?;
    Ok(())
}

/// Packets that both devices sent while `work` was done.
fn watch(cable: &Cable, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = cable.counters()?;
    work()?;
    let grown = grown(&before, &cable.counters()?);
    // Not judged: a busy machine may take a slow answer for a lost packet.
    eprintln!("over a good cable: {} | {}", grown[0], grown[1]);
    Ok(grown.iter().filter_map(|counters| counters.get("sent_pkts")).sum())
}

fn grown(before: &[Counters; 2], after: &[Counters; 2]) -> [Counters; 2] {
    [after[0].since(&before[0]), after[1].since(&before[1])]
}

/// What devices have counted while packets were lost.
pub fn was_mended_by_sending_again([one, other]: &[Counters; 2]) -> Result<()> {
    eprintln!("over a bad cable: {one} | {other}");
    ensure!(one.gaps()? + other.gaps()? > 0, "no packet was lost: {one} | {other}");
    ensure!(one.retries()? + other.retries()? > 0, "nothing was sent again: {one} | {other}");
    Ok(())
}

/// One program of each kind, and one that looks at what arrives.
fn run_all(ends: &[End; 2]) -> Result<()> {
    let text = perftest::between(ends, "ib_write_lat", &["-s", "8", "-n", "200"], LIMIT)?;
    let rows = perftest::parse_latency("ib_write_lat", &text.stdout_text())?;
    ensure!(rows.len() == 1 && rows[0].iterations == 200 && rows[0].p50 > 0.0, "{rows:?}");
    for program in ["ib_read_bw", "ib_send_bw"] {
        let text = perftest::between(ends, program, &["-s", "65536", "-n", "20"], LIMIT)?;
        let rows = perftest::parse_bandwidth(program, &text.stdout_text())?;
        ensure!(rows.len() == 1 && rows[0].iterations == 20 && rows[0].average > 0.0, "{rows:?}");
        eprintln!("{program}: {:.1} MiB/s", rows[0].average);
    }
    ping_pong(ends, 65_536)
}

fn run_all_through_loss(ends: &[End; 2]) -> Result<()> {
    for left in (0..TRIES).rev() {
        match run_all(ends) {
            Err(error) if left > 0 && timed_out(&error) => eprintln!("rxe stopped: {error}"),
            ended => return ended,
        }
    }
    unreachable!("the last one returns")
}

fn timed_out(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::TimedOut { .. }))
}

fn ping_pong(ends: &[End; 2], bytes: u64) -> Result<()> {
    let options = pingpong::Options { bytes, iterations: 50, check: true, events: false };
    let trips = pingpong::between(ends, &options, LIMIT)?;
    ensure!(trips.iterations == 50, "{trips:?}");
    Ok(())
}
