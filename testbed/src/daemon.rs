// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The vNIC daemon as a process beside the guests.

use std::{
    ffi::OsString,
    fmt, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    error::{Doing, Error, Result, tail},
    process::{cleanup, spawn},
    vm::RunDir,
};

/// How long a daemon may take to make its sockets.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Name of the daemon's control socket in the folder of a run.
pub const CONTROL: &str = "control";

/// Name of a daemon that is the only one.
const ONLY: &str = "daemon";

/// One device that the daemon serves.
#[derive(Debug, Clone)]
pub struct Port {
    /// Name of the port, and of the guest that it belongs to.
    pub name: String,
    /// The vhost-user socket, which the daemon makes.
    pub socket: PathBuf,
    /// Ethernet address of the guest's network card.
    pub mac: [u8; 6],
}

type Arguments = dyn Fn(&[Port], &Path) -> Vec<OsString> + Send + Sync;

/// How to start a daemon.
#[derive(Clone)]
pub struct DaemonConfig {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, from the ports that it is to serve and a folder for sockets of its own.
    pub arguments: Arc<Arguments>,
    /// Variables to set.
    pub environment: Vec<(String, String)>,
    /// Its name in files and errors, if it is not the only one.
    pub name: String,
}

impl DaemonConfig {
    /// The command line of this project's daemon, `vnic run`, for the program at `program`. Its
    /// control socket is `control` in the folder of the run.
    pub fn vnic(program: impl Into<PathBuf>) -> Self {
        Self::vnic_with(program, |_| "")
    }

    /// As [`vnic`](Self::vnic), with more settings for a port, from its name, as `vnic run --port` takes
    /// them: `implicit_mr=true`, or nothing.
    pub fn vnic_with(program: impl Into<PathBuf>, settings: fn(&str) -> &'static str) -> Self {
        let arguments = move |ports: &[Port], folder: &Path| {
            let mut words: Vec<OsString> = vec!["run".into(), "-v".into()];
            for port in ports {
                let mac = port.mac.map(|byte| format!("{byte:02x}")).join(":");
                let mut spec = OsString::from(format!("name={},mac={mac},socket=", port.name));
                spec.push(&port.socket);
                match settings(&port.name) {
                    "" => {}
                    more => spec.push(format!(",{more}")),
                }
                words.extend(["--port".into(), spec]);
            }
            words.extend(["--control".into(), folder.join(CONTROL).into()]);
            words
        };
        Self {
            program: program.into(),
            arguments: Arc::new(arguments),
            environment: Vec::new(),
            name: ONLY.into(),
        }
    }

    /// Two daemons of this project with a wire over TCP between them, whose files are in `folder`: the first one
    /// calls the other.
    ///
    /// # Errors
    /// When there is no free port, or the folder cannot be written to.
    pub fn vnics_with_a_wire(program: &Path, folder: &Path) -> Result<[Self; 2]> {
        // Free now; whoever takes it meanwhile makes the daemon say so.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.doing(|| "find a free TCP port".into())?;
        let names = ["daemon-a", "daemon-b"];
        let mut configs = Vec::new();
        for (name, peer, own, theirs) in [
            (names[0], names[1], String::new(), format!("address = '{address}'\n")),
            (names[1], names[0], format!("listen = '{address}'\n"), String::new()),
        ] {
            let key = "5a".repeat(32);
            let text = format!(
                "[wire]\nname = '{name}'\n{own}[[peer]]\nname = '{peer}'\n{theirs}key = '{key}'\n"
            );
            let file = folder.join(format!("{name}.toml"));
            fs::write(&file, text).at("write", &file)?;
            let plain = Self::vnic(program).arguments;
            let control = folder.join(control_of(name));
            let arguments = move |ports: &[Port], folder: &Path| {
                let mut words = plain(ports, folder);
                // The last two say where its control socket is.
                words.pop();
                words.extend([control.clone().into(), "--config".into(), file.clone().into()]);
                words
            };
            let name = name.into();
            configs.push(Self { arguments: Arc::new(arguments), name, ..Self::vnic(program) });
        }
        Ok(configs.try_into().unwrap_or_else(|_| unreachable!("two names")))
    }
}

/// Name of the control socket of the daemon of that name.
fn control_of(name: &str) -> String {
    if name == ONLY { CONTROL.into() } else { format!("{name}.{CONTROL}") }
}

impl fmt::Debug for DaemonConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonConfig").field("program", &self.program).finish_non_exhaustive()
    }
}

/// A running daemon, killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    control: PathBuf,
    log: PathBuf,
    ports: Vec<Port>,
    _registered: cleanup::Registered,
}

impl Daemon {
    /// Starts the daemon with one port for each of `guests` (name and Ethernet address), and waits
    /// for its sockets.
    ///
    /// # Errors
    /// When it ends, or has not made its sockets after ten seconds; with the end of its log.
    pub fn start(config: &DaemonConfig, run: &RunDir, guests: &[(&str, [u8; 6])]) -> Result<Self> {
        let port = |&(name, mac): &(&str, [u8; 6])| {
            Ok(Port { name: name.into(), socket: run.socket(&format!("{name}.vnic"))?, mac })
        };
        let ports = guests.iter().map(port).collect::<Result<Vec<_>>>()?;
        let log = run.path().join(format!("{}.log", config.name));
        let control = run.path().join(control_of(&config.name));
        let output = fs::File::create(&log).at("make", &log)?;
        let second = output.try_clone().doing(|| "copy a descriptor".into())?;
        let mut command = Command::new(&config.program);
        command.args((config.arguments)(&ports, run.path()));
        command.envs(config.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output).stderr(second);
        let child = spawn(command).at("start", &config.program)?;
        let registered = cleanup::child(&child).doing(|| "watch the daemon".into())?;
        let mut daemon = Self { child, control, log, ports, _registered: registered };
        let until = Instant::now() + START_LIMIT;
        while !daemon.ports.iter().all(|port| port.socket.exists()) {
            if let Some(status) = daemon.ended()? {
                return Err(daemon.error(&format!("ended while starting ({status})")));
            }
            if Instant::now() >= until {
                return Err(daemon.error(&format!("has made no sockets after {START_LIMIT:?}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Its ports, in the order of the guests.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().doing(|| "wait for the daemon".into())
    }

    /// Sends it a signal: `KILL` is a crash, `STOP` a hang and `CONT` the end of one.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Not reaped yet, so the number is still its own.
        pid.map_or(Ok(()), |pid| kill_process(pid, signal)).doing(|| "signal the daemon".into())
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// When it has not ended after ten seconds, with the end of its log.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let until = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                return Err(self.error(&format!("still runs {STOP_LIMIT:?} after SIGTERM")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn error(&self, what: &str) -> Error {
        let log = tail(&self.log(), 60);
        Error::unfit(format!("the vNIC daemon {what}"), format!("Its log ends:\n{log}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
