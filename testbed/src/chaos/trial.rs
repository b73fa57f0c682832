// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One case on one pair of machines, from the settings before to the traces after.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use vnic_guest_agent::message::Exit;

use super::{
    case::Case,
    death, dimm,
    disturb::{Disturbance, IMPOSSIBLE},
    machine::{GROUP, Machines},
    observe::{Counts, Snapshot, keep_peaks},
    program::{self, Duo, Plan},
    progress::Progress,
    result::{CaseResult, Verdict},
};
use crate::{
    complaint::complaints,
    counters::nothing_is_held_of,
    error::{Error, Result},
    guest::{Command, Guest, Running},
};

/// Longest time for a setting.
const LIMIT: Duration = Duration::from_secs(120);

/// What programs may take beyond their time: to fill their memory, and to check all of it at the
/// end while it still is in swap space.
const SLACK: Duration = Duration::from_secs(120);

/// The same of a program that has no time but a task.
const TASK: Duration = Duration::from_secs(900);

/// How often running programs are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Tells those who disturb to come to an end.
#[derive(Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    /// Whether the end has come.
    pub(super) fn is_set(&self) -> bool {
        // Relaxed: nothing but the flag itself is told, and threads are joined.
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        // Relaxed: as above.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sets when it is dropped, so that nobody is waited for in vain after an error.
struct StopAtEnd<'a>(&'a Stop);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}

pub(super) struct Trial<'a> {
    pub machines: &'a Machines,
    pub case: &'a Case,
    pub time: Duration,
    pub progress: &'a Progress,
}

impl Trial<'_> {
    /// Runs the case. What the programs printed goes to `outputs`, by name.
    pub(super) fn run(
        &self,
        result: &mut CaseResult,
        outputs: &mut Vec<(String, String)>,
    ) -> Result<()> {
        if self.case.dimms && self.machines.vms().is_none() {
            result.verdict = Verdict::NotPossible;
            result.reasons.push("nobody here plugs modules into guests inside of hosts".into());
            return Ok(());
        }
        let guests = self.machines.guests();
        let heard = [lines(guests[0])?, lines(guests[1])?];
        for disturbance in self.case.disturbances {
            if let Some(why) = self.begin(disturbance)? {
                result.verdict = Verdict::NotPossible;
                result.reasons.push(why);
                return Ok(());
            }
        }
        let before = Snapshot::take(self.machines)?;
        let mut counts = self.traffic(result, outputs)?;
        let after = Snapshot::take(self.machines)?;
        // The last was the first: swap space may only go when nobody is squeezed any more.
        for disturbance in self.case.disturbances.iter().rev() {
            for guest in guests {
                script(guest, disturbance.end, self.case).run()?;
            }
        }
        let mut growth = before.until(&after);
        for (counts, kernel) in counts.iter_mut().zip(&mut growth.kernels) {
            kernel.append(counts);
        }
        result.count(self.case, &growth);
        for (side, guest) in guests.into_iter().enumerate() {
            nothing_is_held_of(guest, side, || self.machines.status())?;
            turn_memory_over(guest)?;
            let log = guest.dmesg()?;
            // What was logged before belongs to other cases.
            let new = log.lines().skip(heard[side]).collect::<Vec<_>>().join("\n");
            let name = guest.name();
            result.complaints.extend(complaints(&new).map(|line| format!("{name}: {line}")));
        }
        result.judge();
        Ok(())
    }

    /// Why it cannot be, if so.
    fn begin(&self, disturbance: &Disturbance) -> Result<Option<String>> {
        for guest in self.machines.guests() {
            let output = script(guest, disturbance.begin, self.case).output()?;
            if output.exit == Some(Exit::Code(IMPOSSIBLE)) {
                return Ok(Some(output.all_text().trim().into()));
            }
            output.success().map_err(|error| {
                let what = format!("{} cannot be set up: {error}", disturbance.name);
                Error::unfit(what, "See the guest's log.")
            })?;
        }
        Ok(None)
    }

    /// Runs the programs and all that disturbs them; returns what was counted beside the kernels.
    fn traffic(
        &self,
        result: &mut CaseResult,
        outputs: &mut Vec<(String, String)>,
    ) -> Result<[Counts; 2]> {
        let stop = Stop::default();
        thread::scope(|scope| {
            let stopped = StopAtEnd(&stop);
            let mut duos = Vec::new();
            for (number, program) in self.case.programs.iter().enumerate() {
                let plan =
                    Plan { program, time: self.time, seed: number as u64 + 1, more: [&[]; 2] };
                duos.push(Duo::start(self.machines, &plan)?);
            }
            let _loops = self.loops()?;
            let stop = &stop;
            let dimms = self.machines.vms().filter(|_| self.case.dimms);
            let dimms = dimms.map(|vms| vms.map(|vm| scope.spawn(move || dimm::cycle(vm, stop))));
            let pairs = if self.case.deaths.is_empty() { 0 } else { death::PAIRS };
            let deaths = (0..pairs).map(|number| {
                scope.spawn(move || death::cycle(self.machines, self.case.deaths, number, stop))
            });
            let deaths = deaths.collect::<Vec<_>>();
            let mut counts = self.watch(result, &duos)?;
            self.collect(result, duos, outputs);
            drop(stopped);
            if let Some(threads) = dimms {
                for (thread, counts) in threads.into_iter().zip(&mut counts) {
                    let (unplugged, refused) = thread.join().map_err(|_| panicked())??;
                    counts.insert("dimms_unplugged".into(), unplugged);
                    counts.insert("dimms_refused".into(), refused);
                }
            }
            for thread in deaths {
                let died = thread.join().map_err(|_| panicked())??;
                for counts in &mut counts {
                    *counts.entry("deaths".into()).or_default() += died;
                }
            }
            Ok(counts)
        })
    }

    /// One shell for each guest and disturbance that goes on; they end when they are dropped.
    fn loops(&self) -> Result<Vec<Running>> {
        let mut running = Vec::new();
        for disturbance in self.case.disturbances.iter().filter(|d| !d.again.is_empty()) {
            for guest in self.machines.guests() {
                let forever = format!("while :; do {}; done", disturbance.again);
                running.push(script(guest, &forever, self.case).spawn()?);
            }
        }
        Ok(running)
    }

    /// Looks at the programs until all have ended or had their time; returns the peaks of what is
    /// now and then, by guest.
    fn watch(&self, result: &mut CaseResult, duos: &[Duo]) -> Result<[Counts; 2]> {
        let mut peaks = [Counts::new(), Counts::new()];
        let end = Instant::now() + self.limit();
        loop {
            let (mut running, mut seen) = (false, program::Said::default());
            for duo in duos {
                for program in &duo.running {
                    if program.has_ended()? {
                        continue;
                    }
                    running = true;
                    let text = program.output_so_far()?.stdout_text();
                    if let Some(said) = program::progress(&text) {
                        seen.seconds = seen.seconds.max(said.seconds);
                        seen.bytes_checked += said.bytes_checked;
                        seen.wrong_bytes += said.wrong_bytes;
                    }
                }
            }
            if !running || Instant::now() >= end {
                return Ok(peaks);
            }
            self.progress.seen(&seen, self.time);
            for (side, guest) in self.machines.guests().into_iter().enumerate() {
                let pids = duos.iter().map(|duo| duo.running[side].pid()).collect::<Vec<_>>();
                let counts = gauges(guest, &pids)?;
                let pinned = counts.get("VmPin").copied().unwrap_or_default();
                result.vm_pin_kb = result.vm_pin_kb.max(pinned);
                keep_peaks(&mut peaks[side], counts);
            }
            thread::sleep(LOOK);
        }
    }

    fn limit(&self) -> Duration {
        let task = self.case.programs.iter().any(|program| program.overcommit);
        if task { TASK } else { self.time + SLACK }
    }

    fn collect(
        &self,
        result: &mut CaseResult,
        duos: Vec<Duo>,
        outputs: &mut Vec<(String, String)>,
    ) {
        for (number, (duo, program)) in duos.into_iter().zip(self.case.programs).enumerate() {
            // Whoever has not ended by now is late.
            for (end, side) in duo.wait(Duration::from_secs(5)).into_iter().zip(["left", "right"]) {
                let whose = format!("{side} program {number} ({})", program.memory);
                match end {
                    Ok((output, said)) => {
                        outputs.push((format!("output of {whose}"), output.all_text()));
                        match said {
                            Some(said) => result.take(&whose, said),
                            None => {
                                let exit = output.exit.map(|exit| exit.to_string());
                                let how = exit.unwrap_or_default();
                                result.fail(format!("{whose} ended without a result ({how})"));
                            }
                        }
                    }
                    Err(error) => result.fail(format!("{whose}: {error}")),
                }
            }
        }
    }
}

fn panicked() -> Error {
    Error::unfit("a thread of the testbed panicked", "This is a defect of the testbed.")
}

fn script(guest: &Guest, text: &str, case: &Case) -> Command {
    let mib = case.programs.iter().map(|program| program.mib).sum::<u32>();
    let command = guest.shell(text).limit(LIMIT);
    command.env("MIB", mib.to_string()).env("GROUP", GROUP)
}

fn lines(guest: &Guest) -> Result<usize> {
    Ok(guest.dmesg()?.lines().count())
}

/// What is so now, and may be gone at the end.
fn gauges(guest: &Guest, pids: &[i32]) -> Result<Counts> {
    let mut files = String::new();
    for pid in pids {
        files += &format!(" /proc/{pid}/status");
    }
    let line = format!(
        "echo \"ksm_pages_sharing: $(cat /sys/kernel/mm/ksm/pages_sharing)\"; \
         cat{files} 2>/dev/null | grep VmPin; true"
    );
    let text = guest.shell(line).limit(LIMIT).run()?.stdout_text();
    let mut counts = Counts::new();
    for line in text.lines() {
        let mut words = line.split(':').flat_map(str::split_whitespace);
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<u64>)) {
            keep_peaks(&mut counts, [(name.to_string(), value)]);
        }
    }
    Ok(counts)
}

/// Lets the kernel use most of its free pages, so that it looks at what they hold: a page that
/// somebody wrote to after it was free is only noticed when it is used again.
fn turn_memory_over(guest: &Guest) -> Result<()> {
    let line = "mib=$(awk '/MemFree/ { print int($2 / 1024 * 3 / 4) }' /proc/meminfo); \
                head -c ${mib}M /dev/zero >/dev/shm/all; rm -f /dev/shm/all";
    guest.shell(line).limit(LIMIT).run()?;
    Ok(())
}
