// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Starts and stops the daemon for a test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::cleanup;

/// How long the daemon may take to end after SIGTERM.
const LIMIT: Duration = Duration::from_secs(20);

/// A running `vnic run`. Killed when dropped; [`stop`](Self::stop) ends it as an administrator would.
pub struct Daemon {
    binary: PathBuf,
    child: Option<Child>,
    /// An interrupt ends it, if the program has asked for that.
    _registered: [cleanup::Registered; 2],
    dir: TempDir,
}

/// What a daemon is started with.
pub struct DaemonOptions {
    binary: PathBuf,
    ports: Vec<(String, String)>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    config: Option<String>,
    workers: Option<u32>,
}

impl DaemonOptions {
    /// Adds a port with settings as `vnic run --port` takes them, without name, socket and MAC address.
    #[must_use]
    pub fn port_with(mut self, name: &str, settings: &str) -> Self {
        self.ports.push((name.to_owned(), settings.to_owned()));
        self
    }

    /// Adds a port on `network`.
    #[must_use]
    pub fn port_on(self, name: &str, network: &str) -> Self {
        self.port_with(name, &format!("network={network}"))
    }

    /// Adds a port on the default network.
    #[must_use]
    pub fn port(self, name: &str) -> Self {
        self.port_on(name, "default")
    }

    /// Adds a command line argument to `vnic run`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Sets a variable in the daemon's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the number of workers.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Gives the daemon a configuration file with this text beside its ports.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Starts the daemon and waits until it says that it is ready.
    ///
    /// `VNIC_TEST_WORKERS` in the environment sets its number of workers unless the test did, `VNIC_LOG` its log level.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn start(self) -> Daemon {
        let dir = tempfile::Builder::new().prefix("vnic-").tempdir().expect("temporary directory");
        let log = File::create(dir.path().join("log")).expect("log file");
        let mut command = Command::new(&self.binary);
        command.args(["run", "--ready", "--control"]).arg(dir.path().join("control"));
        let asked = std::env::var("VNIC_TEST_WORKERS").ok();
        if let Some(workers) = self.workers.map(|workers| workers.to_string()).or(asked) {
            command.args(["--workers", &workers]);
        }
        if let Some(text) = &self.config {
            let path = dir.path().join("config.toml");
            std::fs::write(&path, text).expect("write the configuration");
            command.arg("--config").arg(path);
        }
        for (index, (name, settings)) in self.ports.iter().enumerate() {
            let socket = dir.path().join(format!("{name}.sock"));
            let mac = format!("02:00:00:00:00:{:02x}", index + 1);
            command
                .arg("--port")
                .arg(format!("name={name},socket={},mac={mac},{settings}", socket.display()));
        }
        command.args(&self.args).envs(self.env).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("start the daemon");
        let registered = [
            cleanup::child(&child).expect("watch the daemon"),
            cleanup::folder(dir.path().to_owned()),
        ];
        let output = child.stdout.take().expect("piped");
        let daemon =
            Daemon { binary: self.binary, child: Some(child), _registered: registered, dir };
        let mut line = String::new();
        // Ends when the daemon does, if it never gets ready.
        BufReader::new(output).read_line(&mut line).expect("read the daemon's output");
        assert_eq!(line, "ready\n", "the daemon is not ready:\n{}", daemon.log());
        daemon
    }
}

impl Daemon {
    /// A daemon that runs `binary`.
    pub fn of(binary: impl Into<PathBuf>) -> DaemonOptions {
        DaemonOptions {
            binary: binary.into(),
            ports: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            config: None,
            workers: None,
        }
    }

    /// The vhost-user socket of port `name`.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// The directory of sockets and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// How the daemon ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().expect("running").try_wait().expect("wait for the daemon")
    }

    /// What the daemon logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// What `vnic status --json` says.
    ///
    /// # Panics
    ///
    /// If the command fails or prints no JSON.
    pub fn status(&self) -> serde_json::Value {
        let output = Command::new(&self.binary)
            .args(["status", "--json", "--socket"])
            .arg(self.control())
            .stdin(Stdio::null())
            .output()
            .expect("run vnic status");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("vnic status --json prints JSON")
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Panics
    ///
    /// If it does not end with status 0 in time, or had died before.
    pub fn stop(mut self) {
        if let Some(status) = self.exited() {
            panic!("the daemon died ({status}):\n{}", self.log());
        }
        let child = self.child.as_mut().expect("running");
        let pid = Pid::from_child(child);
        kill_process(pid, Signal::TERM).expect("SIGTERM");
        let limit = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.exited() {
                break status;
            }
            assert!(Instant::now() < limit, "SIGTERM does not end the daemon:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
        self.child = None;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}---", self.log());
        }
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
