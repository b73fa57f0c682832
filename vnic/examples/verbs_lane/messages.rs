// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages arrive whole, once and in order, and there is room for as many as was agreed.

use crate::ends::{Bed, LIMIT, SMALL, hear, next, say, until};
use anyhow::{Context, Result, ensure};
use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};
use vnic::wire::lane::Lane;
use vnic::wire::verbs::endpoint::Settings;
use vnic::wire::verbs::lane::VerbsLane;

/// Long enough for everything that is on its way in one host.
const PAUSE: Duration = Duration::from_millis(100);

/// Messages of each end that pass in no order.
const EACH: u64 = 2000;

/// Sizes around those where something changes: nothing, words, what is sent inline, packets, pages, all there is.
fn sizes(most: usize) -> Vec<usize> {
    let around = [0, 8, 64, 120, 128, 1016, 1024, 2048, 4096, 8192, most];
    let sizes = around.into_iter().flat_map(|size| [size.saturating_sub(1), size, size + 1]);
    sizes.filter(|&size| size <= most).collect()
}

/// Messages of many sizes, both ways at once, several times around the rings.
pub fn arrive_whole(bed: &Bed) -> Result<()> {
    for settings in [SMALL, Settings::default(), Settings { slots: 9, slot_bytes: 1 << 20 }] {
        let mut lanes = bed.pair(settings)?;
        let sizes = sizes(lanes[0].max_message());
        for round in 0..3 {
            for (number, &len) in sizes.iter().enumerate() {
                let seed = (round * sizes.len() + number) as u64;
                for (side, lane) in lanes.iter_mut().enumerate() {
                    let said = until(lane, "room", |lane| {
                        Ok(say(lane, 2 * seed + side as u64, len).then_some(()))
                    });
                    said.with_context(|| format!("{settings:?}, {len} bytes"))?;
                    lane.flush();
                }
                for (side, lane) in lanes.iter_mut().enumerate() {
                    next(lane, 2 * seed + 1 - side as u64, len)
                        .with_context(|| format!("{settings:?}, {len} bytes"))?;
                }
            }
        }
    }
    Ok(())
}

/// Sends until there is no room; how many.
fn fill(lane: &mut VerbsLane, first: u64) -> u64 {
    let mut sent = 0;
    let end = Instant::now() + PAUSE;
    // Room of the own ring comes back with completions: as long as those take.
    while Instant::now() < end {
        while say(lane, first + sent, 16) {
            sent += 1;
        }
        lane.flush();
    }
    sent
}

fn drain(lane: &mut VerbsLane, first: u64, count: u64) -> Result<()> {
    (first..first + count).try_for_each(|seed| {
        until(lane, "a message", |lane| Ok(hear(lane, seed, 16)?.then_some(())))?;
        lane.release();
        Ok(())
    })
}

/// A peer that takes nothing has room for `slots` messages; what it gives back is all that it has room for again.
pub fn room_is_as_agreed(bed: &Bed) -> Result<()> {
    for slots in [8, 9, 64] {
        let [mut one, mut other] = bed.pair(Settings { slots, ..SMALL })?;
        let all = u64::from(slots);
        let sent = fill(&mut one, 0);
        ensure!(sent == all, "room for {sent} messages of {all}");
        // Less than half is not told by itself, but by the next message.
        let few = all / 2 - 1;
        drain(&mut other, 0, few)?;
        other.flush();
        let sent = fill(&mut one, all);
        ensure!(sent == 0, "room for {sent} messages, and none was given back");
        ensure!(say(&mut other, 5, 16), "no room the other way");
        other.flush();
        next(&mut one, 5, 16)?;
        let sent = fill(&mut one, all);
        ensure!(sent == few, "room for {sent} messages, {few} were given back");
        // Half is.
        let half = all.div_ceil(2);
        drain(&mut other, few, half)?;
        other.flush();
        let sent = fill(&mut one, all + few);
        ensure!(sent == half, "room for {sent} messages, {half} were given back");
        drain(&mut other, few + half, all)?;
    }
    Ok(())
}

/// A generator of Marsaglia's kind: what happens is the same each time, as far as the device lets it.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Both ends send, flush, receive and release when they like.
pub fn order_survives(bed: &Bed) -> Result<()> {
    for (slots, seed) in [(8, 1), (13, 2), (64, 3)] {
        let mut lanes = bed.pair(Settings { slots, ..SMALL })?;
        let mut state = seed * 0x2545_f491_4f6c_dd1d;
        let mut under_way = [VecDeque::new(), VecDeque::new()];
        let mut counts = [0u64; 2];
        let (mut act, end) = (0u64, Instant::now() + LIMIT);
        while counts.iter().any(|&count| count < EACH) {
            ensure!(Instant::now() < end, "{slots} slots: only {counts:?} messages in {LIMIT:?}");
            act += 1;
            let chance = random(&mut state);
            let (side, len) = ((chance & 1) as usize, (chance >> 8) as usize % 1000);
            let lane = &mut lanes[side];
            match chance >> 32 & 7 {
                0..=2 if say(lane, act, len) => under_way[side].push_back((act, len)),
                3 => lane.flush(),
                4..=6 => {
                    let due = under_way[1 - side].front().copied();
                    let (seed, len) = due.unwrap_or((u64::MAX, usize::MAX));
                    if hear(lane, seed, len).with_context(|| format!("{slots} slots"))? {
                        lane.release();
                        under_way[1 - side].pop_front();
                        counts[side] += 1;
                    }
                }
                _ => {}
            }
        }
        // And nobody is stuck afterwards.
        for _ in 0..2 {
            for side in [0, 1] {
                lanes[0].flush();
                lanes[1].flush();
                while let Some((seed, len)) = under_way[1 - side].pop_front() {
                    next(&mut lanes[side], seed, len).with_context(|| format!("{slots} slots"))?;
                    counts[side] += 1;
                }
            }
        }
        for lane in &mut lanes {
            until(lane, "room", |lane| Ok(lane.buffer().map(drop)))?;
            ensure!(lane.receive()?.is_none(), "more came than was sent");
        }
    }
    Ok(())
}

/// Whoever sleeps because the peer has no room is woken when it has.
pub fn room_wakes(bed: &Bed) -> Result<()> {
    let [mut one, mut other] = bed.pair(SMALL)?;
    let sent = fill(&mut one, 0);
    let sleeper = thread::spawn(move || -> Result<(VerbsLane, Duration)> {
        let since = Instant::now();
        until(&mut one, "room", |lane| Ok(lane.buffer().map(drop)))?;
        Ok((one, since.elapsed()))
    });
    thread::sleep(PAUSE);
    ensure!(!sleeper.is_finished(), "there was room all the time");
    drain(&mut other, 0, sent)?;
    other.flush();
    let (_one, slept) = sleeper.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
    ensure!(slept < LIMIT, "it slept for {slept:?}");
    Ok(())
}

/// Completions that came before a lane was armed wake nobody: the look after it has to find the message behind them.
pub fn nothing_is_left_behind(bed: &Bed) -> Result<()> {
    let settings = Settings::default();
    let [mut one, mut other] = bed.pair(settings)?;
    let all = u64::from(settings.slots);
    for seed in 0..all {
        ensure!(say(&mut one, seed, 16), "no room for message {seed}");
        one.flush();
    }
    drain(&mut other, 0, all)?;
    ensure!(say(&mut other, 7, 16), "no room the other way");
    other.flush();
    // All is there now, and nothing will come any more.
    thread::sleep(PAUSE);
    one.arm();
    ensure!(hear(&mut one, 7, 16)?, "the message is there, and was not seen");
    Ok(())
}
