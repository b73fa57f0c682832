// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The vNIC daemon in a machine that plays a host.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;

use crate::{
    error::{Error, Result},
    guest::{Output, Place, Running},
};

/// Where the program is in a host; lay it there with [`Overlay`](crate::provision::image::Overlay).
pub const PROGRAM: &str = "/usr/bin/vnic";

/// How long the daemon may take to be ready, to answer, or to end: an emulated machine is slow.
const LIMIT: Duration = Duration::from_secs(60);

/// A port of the daemon.
#[derive(Debug, Clone)]
pub struct DaemonPort {
    /// Its name.
    pub name: String,
    /// The last byte of its Ethernet address, which no other port that it talks to may have.
    pub number: u8,
    /// Ports reach only ports of the same network.
    pub network: String,
    /// Whether its queue pairs reach peers that no daemon knows.
    pub direct: bool,
}

impl DaemonPort {
    /// A port in the default network, which does not go direct.
    pub fn new(name: impl Into<String>, number: u8) -> Self {
        Self { name: name.into(), number, network: "default".into(), direct: false }
    }

    /// The same, going direct.
    pub fn direct(name: impl Into<String>, number: u8) -> Self {
        Self { direct: true, ..Self::new(name, number) }
    }
}

/// A running daemon, killed when it is dropped.
#[derive(Debug)]
pub struct HostDaemon {
    place: Place,
    /// For its sockets and its log.
    folder: String,
    /// Behind a lock, so that several threads may ask the daemon.
    running: Mutex<Running>,
    pid: i32,
}

impl HostDaemon {
    /// Starts `vnic run` with these ports and waits until it is ready. `name` tells the daemons of a host apart.
    /// `configuration` is the text of a file for `--config`, if it is not empty; `arguments` are added.
    ///
    /// # Errors
    /// When the host has no such program, or the daemon is not ready in time; with what it has logged.
    pub fn start(
        place: &Place,
        name: &str,
        ports: &[DaemonPort],
        configuration: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let (guest, folder) = (place.guest(), format!("/run/{name}"));
        let mut line = format!("exec {PROGRAM} run --ready --control {folder}/control");
        for port in ports {
            let (name, number, network) = (&port.name, port.number, &port.network);
            line.push_str(&format!(
                " --port name={name},socket={folder}/{name}.sock,mac=02:00:00:00:00:{number:02x},\
                 network={network}"
            ));
            line.push_str(if port.direct { ",direct=true" } else { "" });
        }
        if !configuration.is_empty() {
            let path = format!("{folder}/vnic.toml");
            // It holds keys.
            guest.write_file(&path, configuration.as_bytes(), 0o600)?;
            line.push_str(&format!(" --config {path}"));
        }
        for argument in arguments {
            line.push_str(&format!(" {argument}"));
        }
        guest.run(["mkdir", "-p", &folder], LIMIT)?;
        let running = place.shell(format!("{line} 2>{folder}/log")).spawn()?;
        let ready = running.wait_for_output("ready", LIMIT);
        ready.map_err(|error| with_log(place, &folder, error))?;
        let pid = running.pid();
        Ok(Self { place: place.clone(), folder, running: Mutex::new(running), pid })
    }

    /// The vhost-user socket of a port.
    pub fn socket(&self, port: &str) -> String {
        format!("{}/{port}.sock", self.folder)
    }

    /// Its control socket.
    pub fn control(&self) -> String {
        format!("{}/control", self.folder)
    }

    /// Its process id in the host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// When the host is gone.
    pub fn log(&self) -> Result<String> {
        self.place.guest().read_text(&format!("{}/log", self.folder))
    }

    /// What `vnic status --json` says.
    ///
    /// # Errors
    /// When it does not answer in time, or with something else.
    pub fn status(&self) -> Result<Value> {
        let control = self.control();
        let asked = self.place.run([PROGRAM, "status", "--json", "--socket", &control], LIMIT);
        let text = asked.map_err(|error| self.explained(error))?.stdout_text();
        serde_json::from_str(&text).map_err(|error| Error::Unread {
            program: "vnic status".into(),
            what: error.to_string(),
            output: text,
        })
    }

    /// Ends it as an administrator would, which it must do with success.
    ///
    /// # Errors
    /// When it does not, with what it has logged.
    pub fn stop(self) -> Result<Output> {
        let Self { place, folder, running, .. } = self;
        let running = running.into_inner().unwrap_or_else(PoisonError::into_inner);
        let stopped = running.stop(LIMIT).and_then(Output::success);
        stopped.map_err(|error| with_log(&place, &folder, error))
    }

    fn explained(&self, error: Error) -> Error {
        with_log(&self.place, &self.folder, error)
    }
}

/// Adds the log to what is said about a command.
fn with_log(place: &Place, folder: &str, error: Error) -> Error {
    let log = place.guest().read_text(&format!("{folder}/log")).unwrap_or_default();
    error.with_output(&format!("The daemon in {place} had logged:\n{log}"))
}
