// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Credits: how many messages the peer has room for, and what it is owed of our room.
//!
//! A message takes a credit. Whoever is done with messages gives credits back with its next message, or in one without
//! content, for which there is room of its own.

use thiserror::Error;

/// Receives for messages without content. At most two are under way: each gives back half of all credits or more.
pub const SPARE: u32 = 4;

/// The peer gave more than it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the peer gave back {given} messages of {under_way} under way")]
pub struct TooMany {
    given: u32,
    under_way: u32,
}

/// Credits of one end of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credits {
    /// Messages that the peer has room for in all.
    theirs: u32,
    /// Of those, such as are under way, or in the peer's hands.
    used: u32,
    /// Messages that there is room for here.
    ours: u32,
    /// Of those that came, such as were released and not told.
    owed: u32,
}

impl Credits {
    /// At the beginning.
    pub const fn new(theirs: u32, ours: u32) -> Self {
        Self { theirs, used: 0, ours, owed: 0 }
    }

    /// Whether the peer has room for a message.
    pub const fn has_room(&self) -> bool {
        self.used < self.theirs
    }

    /// A message leaves. What it is to give back.
    pub const fn send(&mut self) -> u32 {
        self.used += 1;
        self.give()
    }

    /// What a message without content is to give back, if one is due.
    pub const fn due(&mut self) -> Option<u32> {
        if self.owed * 2 >= self.ours { Some(self.give()) } else { None }
    }

    const fn give(&mut self) -> u32 {
        let owed = self.owed;
        self.owed = 0;
        owed
    }

    /// A message came that gives so many back.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub const fn receive(&mut self, given: u32) -> Result<(), TooMany> {
        if given > self.used {
            return Err(TooMany { given, under_way: self.used });
        }
        self.used -= given;
        Ok(())
    }

    /// A message that came was released.
    pub const fn release(&mut self) {
        self.owed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Debug, Clone, Copy)]
    enum Act {
        Send,
        Hear,
        Release,
        Due,
    }

    struct End {
        credits: Credits,
        held: u32,
        /// On the way to this end: credits given back, and whether there is a message with it.
        wire: VecDeque<(u32, bool)>,
    }

    proptest! {
        /// Whatever the two ends do, neither has more to receive than it has room for, and they never get stuck.
        #[test]
        fn nobody_is_sent_more_than_he_has_room_for(
            one in 1u32..20, other in 1u32..20,
            acts in prop::collection::vec((0usize..2, prop::sample::select(vec![Act::Send, Act::Hear, Act::Release, Act::Due])), 0..400),
        ) {
            let end = |theirs, ours| End { credits: Credits::new(theirs, ours), held: 0, wire: VecDeque::new() };
            let mut ends = [end(other, one), end(one, other)];
            let room = [one, other];
            let act = |ends: &mut [End; 2], who: usize, act: Act| -> Result<(), TooMany> {
                match act {
                    Act::Send if ends[who].credits.has_room() => {
                        let given = ends[who].credits.send();
                        ends[1 - who].wire.push_back((given, true));
                    }
                    Act::Due => {
                        if let Some(given) = ends[who].credits.due() {
                            ends[1 - who].wire.push_back((given, false));
                        }
                    }
                    Act::Hear => {
                        if let Some((given, message)) = ends[who].wire.pop_front() {
                            ends[who].credits.receive(given)?;
                            ends[who].held += u32::from(message);
                        }
                    }
                    Act::Release if ends[who].held > 0 => {
                        ends[who].held -= 1;
                        ends[who].credits.release();
                    }
                    Act::Send | Act::Release => {}
                }
                Ok(())
            };
            for (who, what) in acts {
                act(&mut ends, who, what).unwrap();
                for (end, room) in ends.iter().zip(room) {
                    let messages = end.wire.iter().filter(|(_, message)| *message).count() as u32;
                    prop_assert!(messages + end.held <= room);
                    // An end that has a single receive owes at once, and again with each release.
                    let spare = end.wire.len() as u32 - messages;
                    prop_assert!(spare <= SPARE.max(room), "{spare}");
                }
            }
            for _ in 0..100 {
                for who in 0..2 {
                    for what in [Act::Hear, Act::Release, Act::Due] {
                        act(&mut ends, who, what).unwrap();
                    }
                }
            }
            prop_assert!(ends.iter().all(|end| end.credits.has_room()), "everything was released");
        }
    }

    #[test]
    fn more_than_was_sent_is_no_credit() {
        let mut credits = Credits::new(4, 4);
        credits.send();
        assert_eq!(credits.receive(2), Err(TooMany { given: 2, under_way: 1 }));
        assert_eq!(credits.receive(1), Ok(()));
    }
}
