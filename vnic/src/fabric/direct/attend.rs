// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks after the device that ports go direct by: has them told when it cannot be used, and brings it back when one of its
//! name is there again.

use super::nic::Nic;
use super::seat::Seat;
use crate::device::Device as Engine;
use crate::wire::reach::Way;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

/// How often the device is looked at. It costs a system call or two.
const LOOK: Duration = Duration::from_millis(250);

/// What looks after a device: `there` tells whether one of its name can be used, and `open` opens that.
pub struct Attendant<T, O> {
    there: T,
    open: O,
    /// The one that is there now does not suit, and will not for as long as it is.
    refused: bool,
    /// What was last said of one that cannot be opened.
    told: Option<String>,
}

impl<T, O> Attendant<T, O>
where
    T: FnMut() -> bool + Send + 'static,
    O: FnMut(&Arc<Engine>) -> Result<Arc<dyn Nic>, String> + Send + 'static,
{
    /// For a device that was opened once.
    pub fn new(there: T, open: O) -> Self {
        Self { there, open, refused: false, told: None }
    }

    /// Looks after the device of `seat` for as long as somebody has that and the engine.
    ///
    /// # Errors
    ///
    /// No thread.
    pub fn start(mut self, seat: &Arc<Seat>, engine: &Arc<Engine>) -> io::Result<()> {
        let (seat, engine) = (Arc::downgrade(seat), Arc::downgrade(engine));
        let still =
            |seat: &Weak<Seat>, engine: &Weak<_>| Some((seat.upgrade()?, engine.upgrade()?));
        let run = move || {
            while let Some((seat, engine)) = still(&seat, &engine) {
                self.look(&seat, &engine);
                // What goes meanwhile does not wait for this.
                drop((seat, engine));
                thread::sleep(LOOK);
            }
        };
        thread::Builder::new().name("direct-device".into()).spawn(run).map(drop)
    }

    fn look(&mut self, seat: &Seat, engine: &Arc<Engine>) {
        let there = (self.there)();
        self.refused &= there;
        if there && !self.refused && seat.nic().is_lost() {
            self.bring_back(seat, engine);
        }
        let up = there && !seat.nic().is_lost();
        if engine.reach().set(engine, Way::Direct, up) {
            let device = seat.name();
            if up {
                tracing::info!(device, "ports can go direct again");
            } else {
                tracing::warn!(device, "no port goes direct for now: they are told");
            }
        }
    }

    fn bring_back(&mut self, seat: &Seat, engine: &Arc<Engine>) {
        let device = seat.name();
        let nic = match (self.open)(engine) {
            Ok(nic) => nic,
            Err(why) => {
                // It may only be too early. Once is enough for each reason.
                if self.told.as_ref() != Some(&why) {
                    tracing::warn!(device, why, "the host's device is back, and cannot be opened");
                    self.told = Some(why);
                }
                return;
            }
        };
        self.told = None;
        if let Err(unfit) = seat.take(nic) {
            self.refused = true;
            tracing::error!(%unfit, device, "the host's device is back as another one than guests were told of: start the daemon anew, and with it the guests' drivers");
            return;
        }
        for session in engine.ports().iter().filter_map(|port| port.current_session()) {
            session.renew_addresses();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceConfig;
    use crate::fabric::direct::testing::FakeNic;
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, Ordering};

    type Opened = Result<Arc<dyn Nic>, String>;
    type Look = Box<dyn FnMut(&Seat, &Arc<Engine>)>;

    /// An attendant of a device that is there or not as the flag says, and what it opens, one after the other.
    struct Scene {
        seat: Seat,
        engine: Arc<Engine>,
        first: Arc<FakeNic>,
        there: Arc<AtomicBool>,
        opens: Arc<parking_lot::Mutex<VecDeque<Opened>>>,
        look: Look,
    }

    impl Scene {
        fn set(opens: impl IntoIterator<Item = Opened>) -> Self {
            let first = Arc::new(FakeNic::new(None));
            let there = Arc::new(AtomicBool::new(true));
            let opens =
                Arc::new(parking_lot::Mutex::new(opens.into_iter().collect::<VecDeque<_>>()));
            let is_there = {
                let there = there.clone();
                move || there.load(Ordering::Relaxed)
            };
            let open = {
                let opens = opens.clone();
                move |_: &_| opens.lock().pop_front().unwrap()
            };
            let mut attendant = Attendant::new(is_there, open);
            let look = Box::new(move |seat: &Seat, engine: &_| attendant.look(seat, engine));
            let engine = Engine::new(DeviceConfig::default());
            Self { seat: Seat::new(first.clone()), engine, first, there, opens, look }
        }

        fn look(&mut self) -> bool {
            (self.look)(&self.seat, &self.engine);
            self.engine.reach().is_up(Way::Direct)
        }

        fn there(&self, there: bool) {
            self.there.store(there, Ordering::Relaxed);
        }
    }

    fn fake(pins: Option<&str>) -> Opened {
        Ok(Arc::new(FakeNic::new(pins)))
    }

    #[test]
    fn a_device_whose_port_is_down_is_the_same_when_it_is_up() {
        let mut scene = Scene::set([]);
        assert!(scene.look());
        scene.there(false);
        assert!(!scene.look());
        scene.there(true);
        assert!(scene.look(), "nothing was opened");
    }

    #[test]
    fn one_that_was_lost_is_opened_again_and_again_until_it_can_be() {
        let mut scene = Scene::set([Err("it has no address yet".into()), fake(None)]);
        scene.first.lose();
        scene.there(false);
        assert!(!scene.look());
        assert_eq!(scene.opens.lock().len(), 2, "there is nothing to be opened");
        scene.there(true);
        assert!(!scene.look());
        assert!(scene.look());
        assert!(!scene.seat.nic().is_lost());
    }

    #[test]
    fn one_that_does_not_suit_is_left_alone_until_there_is_another() {
        let mut scene = Scene::set([fake(Some("it is old")), fake(None)]);
        scene.first.lose();
        for _ in 0..3 {
            assert!(!scene.look());
        }
        assert_eq!(scene.opens.lock().len(), 1, "it was opened once");
        scene.there(false);
        assert!(!scene.look());
        scene.there(true);
        assert!(scene.look());
    }
}
