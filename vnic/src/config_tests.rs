// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the configuration file and its checks.

use super::*;

fn load(text: &str) -> anyhow::Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vnic.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), &[], None)
}

/// The message without the file's path, which changes.
fn message(text: &str) -> String {
    let chain: Vec<String> = load(text).unwrap_err().chain().map(ToString::to_string).collect();
    let chain: Vec<&str> =
        chain.iter().map(String::as_str).filter(|part| !part.starts_with("in /")).collect();
    chain.join(": ")
}

#[test]
fn a_full_file() {
    let config = load(
        r#"
        workers = 2
        control = "/run/c.sock"
        [limits]
        max_qp = 100
        [[port]]
        name = "a"
        socket = "/run/a.sock"
        mac = "52:54:00:00:00:01"
        network = "blue"
        implicit_mr = true
        [[port]]
        socket = "/run/other.sock"
        "#,
    )
    .unwrap();
    assert_eq!(config.tuning.workers, Some(2));
    assert_eq!(config.tuning.spin_us, None);
    assert_eq!(config.control.as_deref(), Some(Path::new("/run/c.sock")));
    let [a, other] = &config.ports[..] else { panic!("{:?}", config.ports) };
    let limits = Limits { max_qp: 100, ..Limits::default() };
    let expected = PortConfig {
        name: "a".to_owned(),
        mac: [0x52, 0x54, 0, 0, 0, 1],
        network: "blue".to_owned(),
        limits,
        implicit_mr: true,
        direct: None,
    };
    assert_eq!(a.config, expected);
    assert_eq!(a.socket, Path::new("/run/a.sock"));
    assert_eq!(other.config, PortConfig { limits, ..PortConfig::new("other") });
}

#[test]
fn mistakes_are_named() {
    insta::assert_snapshot!(message(""), @r"there is no port to serve: give --socket PATH, --port SPEC or a [[port]] in the file");
    insta::assert_snapshot!(message("[limits]\nmax_sq_depth = 100\n"), @r"limits.max_sq_depth = 100 is not a power of two");
    insta::assert_snapshot!(message("[limits]\nmax_mr_size = 0\n"), @r"limits.max_mr_size = 0 leaves no room for any region");
    insta::assert_snapshot!(message("[limits]\nmax_page_requests = 1\n"), @r"limits.max_page_requests = 1 is too small: choose at least 2");
    insta::assert_snapshot!(message("[limits]\npage_request_burst = 0\n"), @r"limits.page_request_burst = 0 is too small: choose at least 1");
    insta::assert_snapshot!(message("[limits]\npage_timeout_ms = 0\n"), @r"limits.page_timeout_ms = 0 is too small: choose at least 1");
    insta::assert_snapshot!(message("[[port]]\nsocket = '/a'\nmac = '52:54:00:00:00'\n"), @r#"port a: "52:54:00:00:00" is not a MAC address such as 52:54:00:12:34:56"#);
    insta::assert_snapshot!(message("[[port]]\nsocket = '/a'\nmac = '01:54:00:00:00:00'\n"), @r"port a: MAC address 01:54:00:00:00:00 is a multicast address; a device has a unicast one");
    insta::assert_snapshot!(message("[[port]]\nsocket = '/a'\nname = ''\n"), @r#""" is not a name for a port: 1 to 64 printable characters"#);
    insta::assert_snapshot!(message("[[port]]\nsocket = '/x/a'\n[[port]]\nsocket = '/y/a'\n"), @r#"two ports are called "a": give each a name of its own"#);
    insta::assert_snapshot!(
        message("[[port]]\nsocket = '/a'\n[[port]]\nname = 'b'\nsocket = '/a'\n"), @r"two ports have the socket /a: give each its own");
    insta::assert_snapshot!(
        message(
            "[[port]]\nsocket = '/a'\nmac = '52:54:00:00:00:01'\n\
             [[port]]\nsocket = '/b'\nmac = '52:54:00:00:00:01'\n"
        ), @r#"port "b" has the MAC address of another port of its network"#);
    insta::assert_snapshot!(message("[[port]]\nsocket = '/a'\nmca = 'x'\n"), @r"
    TOML parse error at line 3, column 1
      |
    3 | mca = 'x'
      | ^^^
    unknown field `mca`, expected one of `name`, `socket`, `mac`, `network`, `implicit_mr`, `direct`
    ");
    insta::assert_snapshot!(message("[[port]]\nname = 'a'\n"), @r"
    TOML parse error at line 1, column 1
      |
    1 | [[port]]
      | ^^^^^^^^
    missing field `socket`
    ");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/no/such/file.toml")), &[], None).unwrap_err();
    assert!(format!("{error:#}").starts_with("cannot read /no/such/file.toml: "), "{error:#}");
}

#[test]
fn one_mac_may_be_in_two_networks() {
    load(
        "[[port]]\nsocket = '/a'\nmac = '52:54:00:00:00:01'\n\
         [[port]]\nsocket = '/b'\nmac = '52:54:00:00:00:01'\nnetwork = 'other'\n",
    )
    .unwrap();
}

#[test]
fn options_come_before_the_file_and_both_before_the_defaults() {
    let file = Tuning { workers: Some(3), chunk_kib: Some(256), ..Tuning::default() };
    let options = Tuning { workers: Some(5), spin_us: Some(7), ..Tuning::default() };
    let settings = options.or(file).settings();
    assert_eq!((settings.workers, settings.chunk), (5, 256 << 10));
    assert_eq!(settings.spin, std::time::Duration::from_micros(7));
    assert_eq!(settings.past_caches, vnic::device::DeviceConfig::default().past_caches);
    assert!((1..=8).contains(&Tuning::default().settings().workers));
}

/// A file with a port and this much more.
fn wire_message(text: &str) -> String {
    message(&format!("[[port]]\nsocket = '/a'\n{text}"))
}

#[test]
fn a_wire_is_read_whole() {
    let config = load(
        r#"
        [[port]]
        socket = "/a"
        [wire]
        name = "a"
        device = "rxe0"
        gid_index = 1
        slots = 32
        slot_kib = 16
        listen = "127.0.0.1:18600"
        [[peer]]
        name = "b"
        address = "hostname:18600"
        key = "00112233445566778899AABBccddeeff00112233445566778899aabbccddeeff"
        networks = ["default", "blue"]
        "#,
    )
    .unwrap();
    let wire = config.wire.unwrap();
    assert_eq!((wire.name.as_str(), wire.listen.unwrap().port()), ("a", 18600));
    let carrier = &wire.carrier;
    assert_eq!((carrier.device.as_deref(), carrier.gid_index), (Some("rxe0"), Some(1)));
    assert_eq!((carrier.slots, carrier.slot_kib), (Some(32), Some(16)));
    let [peer] = &wire.peers[..] else { panic!("{:?}", wire.peers) };
    assert_eq!((peer.name.as_str(), peer.address.as_deref()), ("b", Some("hostname:18600")));
    assert_eq!(peer.networks.as_ref().unwrap().len(), 2);
}

#[test]
fn mistakes_about_the_wire_are_named() {
    insta::assert_snapshot!(wire_message("[[peer]]\nname = 'b'\n"), @"there is a [[peer]] and no [wire]: add [wire] with a name");
    insta::assert_snapshot!(wire_message("[wire]\nname = 'a b'\n"), @r#"wire.name: "a b" is not a name for a daemon: 1 to 64 letters, digits and signs"#);
    insta::assert_snapshot!(wire_message("[wire]\nname = 'a'\n[[peer]]\nname = ''\n"), @r#"peer.name: "" is not a name for a daemon: 1 to 64 letters, digits and signs"#);
    insta::assert_snapshot!(wire_message("[wire]\nname = 'a'\n[[peer]]\nname = 'b'\n"), @r#"peer b has no key: add key_file = "PATH" or key = "...""#);
    insta::assert_snapshot!(wire_message("[wire]\nname = 'a'\n[[peer]]\nname = 'b'\nkey = 'secret'\n"), @"peer b: a key is 64 hexadecimal digits, the same at both ends (openssl rand -hex 32 makes one)");
    insta::assert_snapshot!(wire_message("[wire]\nname = 'a'\n[[peer]]\nname = 'b'\nkey = 'x'\nkey_file = '/y'\n"), @"peer b has a key and a key_file: leave one out");
    let missing =
        wire_message("[wire]\nname = 'a'\n[[peer]]\nname = 'b'\nkey_file = '/no/such/key'\n");
    assert!(missing.starts_with("peer b: cannot read key_file /no/such/key: "), "{missing}");
}

#[test]
fn the_option_takes_the_place_of_the_files_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vnic.toml");
    std::fs::write(&path, "[[port]]\nsocket = '/a'\n[wire]\nname = 'a'\ndevice = 'rxe0'\n")
        .unwrap();
    let device =
        |given| Config::load(Some(&path), &[], given).unwrap().wire.unwrap().carrier.device;
    assert_eq!(device(None).as_deref(), Some("rxe0"));
    assert_eq!(device(Some("mlx5_0")).as_deref(), Some("mlx5_0"));
    assert_eq!(device(Some("tcp")), None);
    std::fs::write(&path, "[[port]]\nsocket = '/a'\n").unwrap();
    let error = Config::load(Some(&path), &[], Some("rxe0")).unwrap_err().to_string();
    assert!(error.starts_with("--wire needs a file with [wire]"), "{error}");
}

#[test]
fn ports_go_direct_by_the_device_of_the_wire_or_their_own() {
    let wire = "[wire]\nname = 'a'\ndevice = 'rxe0'\n";
    let device =
        |text: &str| load(text).unwrap().direct.map(|(direct, ports)| (direct.device, ports));
    let port = "[[port]]\nsocket = '/a'\ndirect = true\n[[port]]\nsocket = '/b'\n";
    let allow = "[direct]\nallow = ['10.0.0.0/24', 'fd00::/64']\n";
    let named = |device: &str| Some((device.to_owned(), ["a".to_owned()].into()));
    assert_eq!(device(&format!("{wire}{port}{allow}")), named("rxe0"));
    assert_eq!(device(&format!("{wire}{port}{allow}device = 'mlx5_0'\n")), named("mlx5_0"));
    assert_eq!(device(&format!("{wire}[[port]]\nsocket = '/a'\n")), None);
    let map = "[direct]\ndevice = 'rxe0'\naddresses = 'mapped'\n\
               [[direct.map]]\nguest = '10.0.0.9'\nhost = '192.0.2.9'\n";
    let (direct, _) = load(&format!("{port}{map}")).unwrap().direct.unwrap();
    assert_eq!(direct.addresses, vnic::fabric::direct::setup::Addresses::Mapped);
    assert_eq!(direct.map_of("default").len(), 1);
    assert_eq!(direct.map_of("blue").len(), 0);
    insta::assert_snapshot!(message(port), @"a port goes direct, and nothing says by which device: set direct.device to an RDMA device of this host");
    insta::assert_snapshot!(message(&format!("{wire}{port}")), @r#"guests have addresses of their own on this host's network, and nothing says which they may have: set direct.allow to prefixes (allow = ["10.0.0.0/24"]) of which nobody else has any, or direct.addresses = "mapped""#);
    insta::assert_snapshot!(message("[direct]\ndevice = 'rxe0'\n[[port]]\nsocket = '/a'\n"), @"there is [direct], and no port goes direct: add direct = true to a [[port]], or leave [direct] out");
    insta::assert_snapshot!(
        message("[[port]]\nsocket = '/a'\ndirect = true\nimplicit_mr = true\n"), @"port a: no device of a host has regions of a whole address space: choose direct or implicit_mr");
}
