// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `vnic` program as a user or a parent process meets it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn vnic() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnic"));
    command.env_remove("VNIC_LOG");
    command
}

fn run(args: &[&str]) -> Output {
    vnic().args(args).output().unwrap()
}

/// Standard error of a command that fails, with `dir` written as `DIR`.
fn failure(dir: &Path, args: &[&str]) -> String {
    let output = run(args);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    // Log lines come before the message and hold times.
    let message: Vec<&str> = text.lines().filter(|line| !line.contains(" INFO ")).collect();
    message.join("\n").replace(dir.to_str().unwrap(), "DIR")
}

/// A daemon that listens. Killed when dropped, if it still runs.
struct Daemon {
    child: Child,
}

impl Daemon {
    fn start(args: &[&str]) -> Self {
        let mut child = vnic()
            .args(["run", "--ready"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut log = String::new();
            child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            panic!("the daemon did not start: {line:?} {log}");
        }
        Self { child }
    }

    fn stop(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_daemon_serves_reports_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, control] = ["a.sock", "b.sock", "control"].map(|name| path(dir.path(), name));
    let daemon = Daemon::start(&[
        "--control",
        &control,
        "--socket",
        &a,
        "--mac",
        "52:54:00:00:00:01",
        "--port",
        &format!("name=second,socket={b},network=blue"),
    ]);
    let table = run(&["status", "--socket", &control]);
    let table = String::from_utf8(table.stdout).unwrap();
    insta::assert_snapshot!(table.replace(dir.path().to_str().unwrap(), "DIR"), @r"
    PORT    NETWORK  GUEST  DRIVER  PASID  CTX  PD  MR  CQ  QP  FAULTS  MERGED  AHEAD  DEFER  SENDS  BYTES  SOCKET
    a       default  -      -       0      0    0   0   0   0   0/0     0       0      0      0      0      DIR/a.sock
    second  blue     -      -       0      0    0   0   0   0   0/0     0       0      0      0      0      DIR/b.sock
    ");
    let json = run(&["status", "--socket", &control, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["ports"][0]["mac"], "52:54:00:00:00:01");
    assert_eq!(json["ports"][1]["network"], "blue");
    assert_eq!(json["ports"][1]["objects"]["qps"], 0);
    let (code, log) = daemon.stop(Signal::TERM);
    assert_eq!(code, Some(0), "{log}");
    for socket in [&a, &b, &control] {
        assert!(!Path::new(socket).exists(), "{socket}");
    }
}

#[test]
fn ctrl_c_ends_a_daemon_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let [a, control] = ["a.sock", "control"].map(|name| path(dir.path(), name));
    let (code, log) = Daemon::start(&["--control", &control, "--socket", &a]).stop(Signal::INT);
    assert_eq!(code, Some(0), "{log}");
    assert!(!Path::new(&a).exists());
}

#[test]
fn a_killed_daemon_s_sockets_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let [a, control] = ["a.sock", "control"].map(|name| path(dir.path(), name));
    let args = ["--control", &control, "--socket", &a];
    Daemon::start(&args).stop(Signal::KILL);
    assert!(Path::new(&a).exists());
    let (code, log) = Daemon::start(&args).stop(Signal::TERM);
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn logs_are_json_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let [a, control] = ["a.sock", "control"].map(|name| path(dir.path(), name));
    let daemon =
        Daemon::start(&["--control", &control, "--socket", &a, "--log-format", "json", "-v"]);
    let (_, log) = daemon.stop(Signal::TERM);
    assert!(log.lines().count() > 0);
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
}

#[test]
fn mistakes_are_told_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let [socket, control, plain, used] =
        ["a.sock", "control", "plain", "used"].map(|name| path(dir.path(), name));
    std::fs::write(&plain, "").unwrap();
    let _listener = UnixListener::bind(&used).unwrap();
    let missing = path(dir.path(), "no/a.sock");
    let long = path(dir.path(), &"x".repeat(110));
    let fails = |args: &[&str]| {
        failure(dir.path(), &[&["run", "--control", &control], args].concat())
            .replace(&"x".repeat(110), "XXX")
    };
    insta::assert_snapshot!(fails(&["--socket", &missing]), @r"vnic: port a: directory DIR/no does not exist: create it, or choose another path for the socket");
    insta::assert_snapshot!(fails(&["--socket", &plain]), @r"vnic: port plain: DIR/plain exists and is not a socket: remove it, or choose another path");
    insta::assert_snapshot!(fails(&["--socket", &used]), @r"vnic: port used: another process listens on DIR/used: stop it, or choose another path");
    insta::assert_snapshot!(fails(&["--port", &format!("name=a,socket={long}")]), @r"vnic: port a: the path DIR/XXX is too long for a UNIX socket (107 bytes at most): choose a shorter one");
    insta::assert_snapshot!(fails(&["--socket", &socket, "--mac", "zz"]), @r#"vnic: port a: "zz" is not a MAC address such as 52:54:00:12:34:56"#);
    insta::assert_snapshot!(fails(&["--socket", &socket, "--workers", "0"]), @r"vnic: cannot start the device: 0 workers asked for; choose 1 to 64");
    insta::assert_snapshot!(fails(&["--socket", &socket, "--workers", "65"]), @r"vnic: cannot start the device: 65 workers asked for; choose 1 to 64");
    insta::assert_snapshot!(fails(&["--config", "/no/such.toml"]), @r"vnic: cannot read /no/such.toml: No such file or directory (os error 2)");
    insta::assert_snapshot!(fails(&[]), @r"
    error: the following required arguments were not provided:
      <--socket <PATH>|--port <SPEC>|--config <FILE>>

    Usage: vnic run --control <PATH> <--socket <PATH>|--port <SPEC>|--config <FILE>>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(fails(&["--port", "name=a"]), @r"
    error: invalid value 'name=a' for '--port <SPEC>': socket=PATH is missing

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(fails(&["--port", "socket=/a,nmae=b"]), @r#"
    error: invalid value 'socket=/a,nmae=b' for '--port <SPEC>': "nmae" is none of socket, name, mac, network, implicit_mr, direct

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(fails(&["--port", "socket=/a,implicit_mr=yes"]), @r"
    error: invalid value 'socket=/a,implicit_mr=yes' for '--port <SPEC>': implicit_mr=yes is neither true nor false

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(fails(&["--port", "socket=/a,socket=/b"]), @r"
    error: invalid value 'socket=/a,socket=/b' for '--port <SPEC>': socket is given twice

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(
        failure(dir.path(), &["run", "--socket", &socket, "--control", &used]), @r"vnic: control socket (another can be chosen with --control PATH): another process listens on DIR/used: stop it, or choose another path");
    insta::assert_snapshot!(
        failure(dir.path(), &["status", "--socket", &path(dir.path(), "none")]), @r"vnic: no daemon answers on DIR/none: is `vnic run` running, and with this --control?");
    // What failed left nothing behind.
    assert!(!Path::new(&socket).exists());
    assert!(!Path::new(&control).exists());
}

#[test]
fn help_teaches() {
    for args in [&["--help"][..], &["run", "--help"], &["status", "--help"]] {
        let output = run(args);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Examples:"), "{text}");
    }
}

/// What is wrong with a wire is found before anybody waits for a peer.
#[test]
fn a_wire_that_cannot_be_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vnic.toml");
    let refused = |wire: &str, options: &[&str]| {
        let socket = dir.path().join("a.sock");
        let text = format!("[[port]]\nsocket = '{}'\n{wire}", socket.display());
        std::fs::write(&path, text).unwrap();
        let control = dir.path().join("control");
        let mut args = vec!["run", "--config", path.to_str().unwrap()];
        args.extend(["--control", control.to_str().unwrap()]);
        args.extend(options);
        let said = failure(dir.path(), &args);
        assert!(!socket.exists(), "a socket was left behind");
        said
    };
    let key = "5a".repeat(32);
    let peer = |name: &str| format!("[[peer]]\nname = '{name}'\nkey = '{key}'\n");
    let wire = "[wire]\nname = 'm'\n";
    let said = refused(&format!("{wire}{}", peer("m")), &[]);
    assert!(said.contains("a peer has this daemon's own name"), "{said}");
    let said = refused(&format!("{wire}{}", peer("z")), &[]);
    assert!(said.contains("it is this daemon that calls: add address"), "{said}");
    let said = refused(&format!("{wire}{}", peer("a")), &[]);
    assert!(said.contains("add listen = \"ADDRESS:PORT\" to [wire]"), "{said}");
    let said = refused("[wire]\nname = 'm'\nlisten = '203.0.113.1:1'\n", &[]);
    assert!(said.contains("cannot listen on 203.0.113.1:1"), "{said}");
    if !cfg!(feature = "verbs") {
        let said = refused(wire, &["--wire", "rxe0"]);
        assert!(said.contains("build it with --features verbs, or choose the wire tcp"), "{said}");
    }
}
