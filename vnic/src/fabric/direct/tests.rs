// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses of a guest on the host, with a device that makes nothing.

use super::DirectConfig;
use super::seat::Seat;
use super::testing::FakeNic;
use crate::device::{Device, DeviceConfig};
use crate::object::gid::Gid;
use crate::port::{Port, PortConfig, PortEvents};
use crate::session::testing::ram;
use std::net::Ipv4Addr;
use std::sync::Arc;
use vnic_abi::config::Features;
use vnic_abi::ctrl::GidType;
use vnic_abi::event::{Event, PageRequest};
use vnic_iommu::addr::Gpa;

struct Deaf;

impl PortEvents for Deaf {
    fn event(&self, _: Event) {}
    fn page_request(&self, _: PageRequest) {}
}

fn gid(last: u8) -> Gid {
    Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets()
}

/// A port that goes direct by `nic`, with a driver, whose guest may have 10.0.0.0/28.
fn port(nic: &Arc<FakeNic>) -> (Arc<Port>, Arc<Seat>) {
    // Pages stay, which needs no userfaultfd.
    let seat = Arc::new(Seat::new(nic.clone()));
    let allowed = Some(["10.0.0.0/28".parse().unwrap()].into());
    let direct = Some(DirectConfig { seat: seat.clone(), map: [].into(), allowed });
    let config = PortConfig { direct, ..PortConfig::new("vm") };
    let device = Device::new(DeviceConfig::default());
    let port = device.attach(config, ram(), Arc::new(Deaf)).unwrap();
    port.init(vnic_abi::ABI_VERSION, Features::PIN, Gpa(0)).unwrap();
    (port, seat)
}

fn nic(of_the_host: Option<Gid>) -> Arc<FakeNic> {
    let mut nic = FakeNic::new(Some("this is a test"));
    nic.of_the_host = of_the_host;
    Arc::new(nic)
}

#[test]
fn a_guest_has_the_addresses_that_it_may_have_for_as_long_as_it_has_them() {
    let nic = nic(Some(gid(3)));
    let (port, _) = port(&nic);
    let own = |gid| port.current_session().unwrap().direct.as_ref().unwrap().source(&gid);
    for last in [1, 2, 3, 99] {
        port.gid_set(last.into(), GidType::RoceV2, gid(last)).unwrap();
    }
    assert_eq!(*nic.addresses.lock(), [gid(1), gid(2)], "the host's, and one of others");
    assert_eq!([1, 2, 3, 99].map(|last| own(gid(last))), [Some(0), Some(1), None, None]);
    port.gid_clear(1).unwrap();
    port.gid_clear(3).unwrap();
    assert_eq!(*nic.addresses.lock(), [gid(2)]);
    port.shutdown();
    assert!(nic.addresses.lock().is_empty(), "the driver is gone");
}

#[test]
fn a_device_that_has_come_back_gets_them_again() {
    let first = nic(None);
    let (port, seat) = port(&first);
    for last in [1, 2] {
        port.gid_set(last.into(), GidType::RoceV2, gid(last)).unwrap();
    }
    first.lose();
    // There is nothing that it could be given to yet.
    port.gid_set(5, GidType::RoceV2, gid(5)).unwrap();
    assert!(!first.addresses.lock().contains(&gid(5)));
    let second = nic(None);
    // Its network interface has kept one.
    second.addresses.lock().push(gid(2));
    seat.take(second.clone()).unwrap();
    let session = port.current_session().unwrap();
    session.renew_addresses();
    let mut has = second.addresses.lock().clone();
    has.sort_unstable();
    assert_eq!(has, [1, 2, 5].map(gid));
    port.gid_clear(2).unwrap();
    assert!(!second.addresses.lock().contains(&gid(2)));
}
