// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the host's device sits that ports go direct by. One that was removed and has come back is another device: what was
//! made with the old one stays with it, and is lost with it; what is made from then on is made with the new one.

use super::nic::{Nic, NicLimits};
use parking_lot::RwLock;
use std::sync::Arc;
use thiserror::Error;

/// A device that is there, or was.
#[derive(Debug)]
pub struct Seat {
    name: String,
    /// What drivers were told, at whatever time they started.
    limits: NicLimits,
    pins: Option<String>,
    now: RwLock<Arc<dyn Nic>>,
}

/// Why a device that has come back is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// Guests may use what it does not have.
    #[error("it can do less ({now:?}) than guests were told ({told:?})")]
    Less {
        /// What it can do.
        now: NicLimits,
        /// What guests count on.
        told: NicLimits,
    },
    /// Drivers were not asked to keep pages where they are.
    #[error("guests do not keep pages where they are, as it wants now, because {0}")]
    Pins(String),
}

impl Seat {
    /// For a device that is there.
    pub fn new(nic: Arc<dyn Nic>) -> Self {
        Self {
            name: nic.name().to_owned(),
            limits: nic.limits(),
            pins: nic.pins().map(str::to_owned),
            now: RwLock::new(nic),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What queue pairs may have.
    pub fn limits(&self) -> NicLimits {
        self.limits
    }

    /// Why pages have to stay where they are; `None` if they need not.
    pub fn pins(&self) -> Option<&str> {
        self.pins.as_deref()
    }

    /// The device, which may be lost.
    pub fn nic(&self) -> Arc<dyn Nic> {
        self.now.read().clone()
    }

    /// Takes the device that has come back.
    ///
    /// # Errors
    ///
    /// [`Unfit`]; the lost one then stays.
    pub fn take(&self, nic: Arc<dyn Nic>) -> Result<(), Unfit> {
        let (now, told) = (nic.limits(), self.limits);
        let covers = now.max_sge >= told.max_sge
            && now.max_depth >= told.max_depth
            && now.max_rd_atomic >= told.max_rd_atomic
            && now.max_inline >= told.max_inline
            && now.mtu >= told.mtu;
        if !covers {
            return Err(Unfit::Less { now, told });
        }
        if let (None, Some(why)) = (&self.pins, nic.pins()) {
            return Err(Unfit::Pins(why.to_owned()));
        }
        let lost = std::mem::replace(&mut *self.now.write(), nic);
        // Without the lock: the last who lets go of a device closes it.
        drop(lost);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::direct::testing::FakeNic;

    #[test]
    fn what_has_come_back_takes_the_place_of_what_was_lost() {
        let first = Arc::new(FakeNic::new(None));
        let seat = Seat::new(first.clone());
        first.lose();
        assert!(seat.nic().is_lost());
        seat.take(Arc::new(FakeNic::new(None))).unwrap();
        assert!(!seat.nic().is_lost());
        assert_eq!(Arc::strong_count(&first), 1, "nobody keeps the lost one");
    }

    #[test]
    fn nothing_takes_it_that_breaks_what_guests_were_told() {
        let seat = Seat::new(Arc::new(FakeNic::new(None)));
        let pins = Arc::new(FakeNic::new(Some("it is old")));
        assert_eq!(seat.take(pins), Err(Unfit::Pins("it is old".into())));
        let mut less = FakeNic::new(None);
        less.limits.max_rd_atomic -= 1;
        assert!(matches!(seat.take(Arc::new(less)), Err(Unfit::Less { .. })));
        assert_eq!(seat.pins(), None);

        // Pages that stay do no harm to a device that needs it not.
        let seat = Seat::new(Arc::new(FakeNic::new(Some("it is old"))));
        seat.take(Arc::new(FakeNic::new(None))).unwrap();
        assert_eq!(seat.pins(), Some("it is old"));
    }
}
