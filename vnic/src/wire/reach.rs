// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What ports are told when that which carries the wire goes, and when it is back.
//!
//! All links of a daemon share one carrier, and so do all ports that reach others over them; another one is the device of ports
//! that go direct. A port has lost a part of what it reaches as long as one of its carriers is gone. A peer daemon that goes is
//! nothing that a port is told about: its guests are gone, and the port is as good as before. Without the carrier the port
//! itself has lost a part of what it reaches, as a network card has whose cable is pulled.
//!
//! Queue pairs are left as they are. Those that have peers on this host go on; those that have not, try for as long as their
//! attributes say, and go on, too, if the carrier is back by then.

use crate::device::Device;
use crate::session::Session;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use vnic_abi::config::Features;
use vnic_abi::event::{Event, EventKind, PORT_STILL_REACHES};

/// Number of the only port of a guest's device, as verbs count them.
const PORT: u32 = 1;

/// What carries a port to other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The device that has the lanes to other daemons.
    Wire,
    /// The device that its queue pairs go direct by.
    Direct,
}

/// Whether the carriers are there, and who cares.
#[derive(Debug, Default)]
pub struct Reach {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wire_is_down: bool,
    direct_is_down: bool,
    /// Networks that each peer has a part in; `None` for all.
    peers: Vec<Option<Vec<Arc<str>>>>,
    /// Ports of this daemon by their network, whether a guest is there or not.
    ports: HashMap<String, usize>,
}

impl State {
    fn is_down(&mut self, way: Way) -> &mut bool {
        match way {
            Way::Wire => &mut self.wire_is_down,
            Way::Direct => &mut self.direct_is_down,
        }
    }

    /// What a port of `network` is told, which goes direct or not; `None` if nothing carries it anywhere.
    fn event(&self, network: &str, direct: bool) -> Option<Event> {
        let allows = |peer: &Option<Vec<Arc<str>>>| {
            peer.as_ref().is_none_or(|networks| networks.iter().any(|one| &**one == network))
        };
        let wire = self.peers.iter().any(allows);
        if !(wire || direct) {
            return None;
        }
        let lost = wire && self.wire_is_down || direct && self.direct_is_down;
        let left = wire && !self.wire_is_down || direct && !self.direct_is_down;
        let neighbours = self.ports.get(network).is_some_and(|ports| *ports > 1);
        let kind = if lost { EventKind::PortDown } else { EventKind::PortUp };
        Some(Event {
            kind: kind.0.into(),
            object: PORT.into(),
            cookie: if neighbours || lost && left { PORT_STILL_REACHES } else { 0 }.into(),
        })
    }

    /// What the driver of a session is told, if it wants to know.
    fn event_for(&self, session: &Session) -> Option<Event> {
        let wants = session.features.contains(Features::PORT_EVENTS);
        wants.then(|| self.event(&session.network, session.direct.is_some())).flatten()
    }
}

impl Reach {
    /// There is a port of `network`, for as long as the daemon runs. Whether it has neighbours does not change with the
    /// guests that come and go: a port is not up or down by who else happens to run.
    pub fn serve(&self, network: &str) {
        *self.state.lock().ports.entry(network.to_owned()).or_default() += 1;
    }

    /// There is a peer which has a part in these networks; `None` for all.
    pub fn wire_to(&self, networks: Option<Vec<Arc<str>>>) {
        self.state.lock().peers.push(networks);
    }

    /// Whether a carrier is there, as far as is known.
    pub fn is_up(&self, way: Way) -> bool {
        !*self.state.lock().is_down(way)
    }

    /// It is there or not: tells every port to which that is news. Whether it is news at all.
    pub fn set(&self, device: &Device, way: Way, up: bool) -> bool {
        // Until everybody is told, so that no port hears the last word before the one before, and a driver that starts
        // meanwhile hears of it here or is greeted with it.
        let mut state = self.state.lock();
        if *state.is_down(way) != up {
            return false;
        }
        let ports = device.ports();
        let sessions = ports.iter().filter_map(|port| port.current_session());
        let told: Vec<_> = sessions.map(|session| (state.event_for(&session), session)).collect();
        *state.is_down(way) = !up;
        for (before, session) in told {
            let event = state.event_for(&session);
            if let Some(event) = event.filter(|_| event != before) {
                session.up.event(event);
            }
        }
        true
    }

    /// Tells a driver that has just started, if there is something to tell: drivers take a port to be up.
    pub fn greet(&self, session: &Session) {
        let is_missing = |event: &Event| EventKind(event.kind.get()) == EventKind::PortDown;
        // As in `set`.
        let state = self.state.lock();
        if let Some(event) = state.event_for(session).filter(is_missing) {
            session.up.event(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceConfig;
    use crate::fabric::direct::DirectConfig;
    use crate::fabric::direct::seat::Seat;
    use crate::fabric::direct::testing::FakeNic;
    use crate::port::{Port, PortConfig, PortEvents};
    use crate::session::testing::ram;
    use vnic_abi::event::PageRequest;
    use vnic_iommu::addr::Gpa;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(EventKind, u64)>>);

    impl PortEvents for Heard {
        fn event(&self, event: Event) {
            assert_eq!(event.object.get(), PORT);
            self.0.lock().push((EventKind(event.kind.get()), event.cookie.get()));
        }
        fn page_request(&self, _: PageRequest) {}
    }

    impl Heard {
        fn take(&self) -> Vec<(EventKind, u64)> {
            std::mem::take(&mut self.0.lock())
        }
    }

    fn port(device: &Arc<Device>, network: &str) -> (Arc<Port>, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let config = PortConfig { network: network.into(), ..PortConfig::new(network) };
        device.reach().serve(network);
        let port = device.attach(config, ram(), heard.clone()).unwrap();
        (port, heard)
    }

    fn start(port: &Port, features: Features) {
        port.init(vnic_abi::ABI_VERSION, features, Gpa(0)).unwrap();
        port.greet();
    }

    const ALONE: u64 = 0;

    #[test]
    fn ports_that_have_a_part_in_the_wire_are_told_once() {
        let device = Device::new(DeviceConfig::default());
        device.reach().wire_to(Some(vec!["red".into(), "blue".into()]));
        let (one, heard_by_one) = port(&device, "red");
        let (other, heard_by_other) = port(&device, "red");
        let (lonely, heard_by_lonely) = port(&device, "blue");
        let (foreign, heard_by_foreign) = port(&device, "green");
        for port in [&one, &other, &lonely, &foreign] {
            start(port, Features::PORT_EVENTS);
        }
        let reach = device.reach();
        assert!(!reach.set(&device, Way::Wire, true));
        assert_eq!(heard_by_one.take(), [], "it was up");
        for (up, kind) in [(false, EventKind::PortDown), (true, EventKind::PortUp)] {
            assert!(reach.set(&device, Way::Wire, up));
            assert!(!reach.set(&device, Way::Wire, up));
            assert_eq!(heard_by_one.take(), [(kind, PORT_STILL_REACHES)]);
            assert_eq!(heard_by_other.take(), [(kind, PORT_STILL_REACHES)]);
            assert_eq!(heard_by_lonely.take(), [(kind, ALONE)]);
            assert_eq!(heard_by_foreign.take(), [], "no peer has a part in its network");
        }
    }

    fn direct_port(device: &Arc<Device>, network: &str) -> (Arc<Port>, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        // Pages stay, which needs no userfaultfd.
        let seat = Arc::new(Seat::new(Arc::new(FakeNic::new(Some("this is a test")))));
        let direct = Some(DirectConfig { seat, map: [].into(), allowed: None });
        let config = PortConfig { network: network.into(), direct, ..PortConfig::new(network) };
        device.reach().serve(network);
        let port = device.attach(config, ram(), heard.clone()).unwrap();
        (port, heard)
    }

    #[test]
    fn a_port_is_down_when_nothing_is_left_that_carries_it() {
        let device = Device::new(DeviceConfig::default());
        device.reach().wire_to(Some(vec!["red".into()]));
        let (both, heard_by_both) = direct_port(&device, "red");
        let (direct, heard_by_direct) = direct_port(&device, "blue");
        let (none, heard_by_none) = port(&device, "green");
        for port in [&both, &direct] {
            start(port, Features::PORT_EVENTS | Features::PIN);
        }
        start(&none, Features::PORT_EVENTS);
        let reach = device.reach();
        reach.set(&device, Way::Direct, false);
        assert_eq!(heard_by_both.take(), [(EventKind::PortDown, PORT_STILL_REACHES)]);
        assert_eq!(heard_by_direct.take(), [(EventKind::PortDown, ALONE)]);
        reach.set(&device, Way::Wire, false);
        assert_eq!(heard_by_both.take(), [(EventKind::PortDown, ALONE)]);
        assert_eq!(heard_by_direct.take(), [], "it has no part in the wire");
        reach.set(&device, Way::Direct, true);
        assert_eq!(heard_by_both.take(), [(EventKind::PortDown, PORT_STILL_REACHES)]);
        assert_eq!(heard_by_direct.take(), [(EventKind::PortUp, ALONE)]);
        reach.set(&device, Way::Wire, true);
        assert_eq!(heard_by_both.take(), [(EventKind::PortUp, ALONE)]);
        assert_eq!(heard_by_none.take(), []);
        assert!(reach.is_up(Way::Wire) && reach.is_up(Way::Direct));
        // One that does without is as any other port.
        start(&direct, Features::PORT_EVENTS);
        reach.set(&device, Way::Direct, false);
        assert_eq!(heard_by_direct.take(), []);
    }

    #[test]
    fn a_driver_that_starts_is_told_of_what_is_missing_and_only_if_it_wants_to_know() {
        let device = Device::new(DeviceConfig::default());
        device.reach().wire_to(None);
        let (port, heard) = port(&device, "red");
        start(&port, Features::PORT_EVENTS);
        assert_eq!(heard.take(), [], "all is well");
        device.reach().set(&device, Way::Wire, false);
        assert_eq!(heard.take(), [(EventKind::PortDown, ALONE)]);
        start(&port, Features::PORT_EVENTS);
        assert_eq!(heard.take(), [(EventKind::PortDown, ALONE)]);
        start(&port, Features::empty());
        device.reach().set(&device, Way::Wire, true);
        assert_eq!(heard.take(), []);
    }
}
