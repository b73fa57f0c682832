// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether somebody waits for the queue pair whose turn it is.

use crate::object::qp::Qp;
use arrayvec::ArrayVec;
use std::sync::Arc;

/// Queue pairs that are watched.
pub const WATCHED: usize = 8;
/// Bursts beyond the first in a turn that nobody waits for. Others may ring whom nobody watches.
const MOST_BURSTS: u32 = 3;

/// Those who have nothing to do now, as far as they are known, and whether there are others who have.
#[derive(Debug, Default)]
pub struct Watch {
    others_wait: bool,
    idle: ArrayVec<Arc<Qp>, WATCHED>,
}

impl Watch {
    /// At the beginning of a pass, or when somebody is put into line.
    #[inline]
    pub fn set_others_wait(&mut self, wait: bool) {
        self.others_wait = wait;
    }

    /// Watches `qp` too, if there is room.
    pub fn add(&mut self, qp: &Arc<Qp>) {
        let _ = self.idle.try_push(qp.clone());
    }

    /// Watches nobody.
    pub fn clear(&mut self) {
        self.idle.clear();
    }

    /// Whether a turn may have another burst; counts it.
    #[inline]
    pub fn may_go_on(&self, bursts: &mut u32) -> bool {
        *bursts += 1;
        // The queue pair whose turn it is says `None`: it does not know where its next element is.
        *bursts <= MOST_BURSTS
            && !self.others_wait
            && !self.idle.iter().any(|qp| qp.is_posted() == Some(true))
    }
}
