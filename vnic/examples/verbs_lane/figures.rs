// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long a message takes, and how many bytes and messages pass.

use crate::ends::{Bed, hear, next, say, until};
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};
use vnic::wire::lane::Lane;
use vnic::wire::verbs::endpoint::Settings;
use vnic::wire::verbs::lane::VerbsLane;

/// Round trips that are measured, after some that are not.
const TRIPS: u64 = 500;
const WARM: u64 = 50;

/// How an end waits for a message.
type Wait = fn(&mut VerbsLane, u64, usize) -> Result<()>;

fn spin(lane: &mut VerbsLane, seed: u64, len: usize) -> Result<()> {
    while !hear(lane, seed, len)? {
        // The device is software here: it may need this processor.
        thread::yield_now();
    }
    lane.release();
    lane.flush();
    Ok(())
}

/// Half of a round trip.
pub fn latency(bed: &Bed) -> Result<()> {
    for (name, wait) in [("polling", spin as Wait), ("sleeping", next as Wait)] {
        for len in [16, 112, 1024, 16 << 10] {
            let [mut one, mut other] = bed.pair(Settings::default())?;
            let echo = thread::spawn(move || -> Result<VerbsLane> {
                for seed in 0..WARM + TRIPS {
                    wait(&mut other, seed, len)?;
                    ensure!(say(&mut other, seed, len), "no room");
                    other.flush();
                }
                Ok(other)
            });
            let mut times = Vec::new();
            for seed in 0..WARM + TRIPS {
                let since = Instant::now();
                ensure!(say(&mut one, seed, len), "no room");
                one.flush();
                wait(&mut one, seed, len)?;
                if seed >= WARM {
                    times.push(since.elapsed() / 2);
                }
            }
            // Its last SEND has arrived, and its completion may be under way.
            let _other = echo.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
            times.sort_unstable();
            let part = |percent: usize| times[times.len() * percent / 100];
            println!(
                "    one way, {name}, {len} bytes: median {:.1?}, 99th percentile {:.1?}, least {:.1?}",
                part(50),
                part(99),
                times[0]
            );
        }
    }
    Ok(())
}

/// One way, as fast as there is room.
pub fn bandwidth(bed: &Bed) -> Result<()> {
    for (len, count) in [(16, 40_000), (1024, 20_000), ((32 << 10) - 8, 3000)] {
        let [mut one, mut other] = bed.pair(Settings::default())?;
        let receiver = thread::spawn(move || -> Result<VerbsLane> {
            let mut taken = 0;
            while taken < count {
                until(&mut other, "a message", |lane| Ok(lane.receive()?.map(drop)))?;
                while let Some(message) = other.receive()? {
                    ensure!(message.len() == len, "{} bytes came", message.len());
                    other.release();
                    taken += 1;
                }
                other.flush();
            }
            Ok(other)
        });
        let since = Instant::now();
        for _ in 0..count {
            if one.buffer().is_none() {
                one.flush();
                until(&mut one, "room", |lane| Ok(lane.buffer().map(drop)))?;
            }
            one.send(len);
        }
        one.flush();
        let _other = receiver.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        let took: Duration = since.elapsed();
        println!(
            "    {count} messages of {len} bytes: {:.0} a second, {:.1} MiB/s",
            count as f64 / took.as_secs_f64(),
            (count * len) as f64 / f64::from(1 << 20) / took.as_secs_f64()
        );
    }
    Ok(())
}
