// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the configuration file and its checks.

use super::*;

fn load(text: &str) -> anyhow::Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vnic.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), &[])
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
    unknown field `mca`, expected one of `name`, `socket`, `mac`, `network`, `implicit_mr`
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
    let error = Config::load(Some(Path::new("/no/such/file.toml")), &[]).unwrap_err();
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
