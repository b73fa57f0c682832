// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One virtual machine: a QEMU process with an agent inside, killed when it is dropped.

pub mod accel;
mod arguments;
mod clock;
pub mod config;
mod dimm;
mod disk;
pub mod hardware;
mod nested;
mod processors;
pub mod qmp;
mod run_dir;

use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::{
    accel::Accelerator,
    config::{Link, LinkSocket, PortEnd, SerialPort, Share, VmConfig},
    hardware::{Hardware, Hotplug, Node},
    nested::{Nest, NestedVm},
    run_dir::RunDir,
};
use crate::{
    error::{Doing, Error, Result, tail},
    guest::Guest,
    process::{cleanup, spawn},
    provision::{image::Image, qemu::Qemu},
};

/// Lines of a console log that an error repeats.
const CONSOLE_TAIL: usize = 80;

/// A running virtual machine.
#[derive(Debug)]
pub struct Vm {
    name: String,
    child: Child,
    guest: Option<Guest>,
    console: Arc<Console>,
    accelerator: Accelerator,
    boot_time: Duration,
    monitor_socket: PathBuf,
    /// Connected when it is first used.
    monitor: Mutex<Option<qmp::Qmp>>,
    _registered: cleanup::Registered,
}

impl Vm {
    /// Starts QEMU and waits until the agent of the guest answers.
    ///
    /// # Errors
    /// When QEMU does not start, or the guest does not answer in time; the error shows what QEMU
    /// said and the end of the guest's console.
    pub fn boot(qemu: &Qemu, image: &Image, run: &RunDir, config: &VmConfig) -> Result<Self> {
        Self::start(qemu, image, run, config)?.wait_for_agent(config.boot_limit)
    }

    /// Starts QEMU without waiting for the guest, so that several can boot at once; continue
    /// with [`Starting::wait_for_agent`].
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(qemu: &Qemu, image: &Image, run: &RunDir, config: &VmConfig) -> Result<Starting> {
        let files = Files::new(run, config)?;
        let listener =
            UnixListener::bind(files.agent.path()).at("listen on", files.agent.path())?;
        for (disk, size) in files.disks.iter().zip(&config.hardware.disks) {
            let file = fs::File::create(disk).at("make", disk)?;
            file.set_len(u64::from(*size) << 20).at("size", disk)?;
        }
        let console = Arc::new(Console {
            guest: config.name.clone(),
            serial: files.serial.clone(),
            qemu: run.path().join(format!("{}.qemu.log", config.name)),
        });
        let log = fs::File::create(&console.qemu).at("make", &console.qemu)?;
        let second = log.try_clone().doing(|| "copy a descriptor".into())?;
        let mut command = qemu.command();
        let mut config = config.clone();
        config.kernel_arguments.push_str(&clock::kernel_argument(config.accelerator));
        command.args(arguments::of(image, &config, &files));
        command.stdin(Stdio::null()).stdout(log).stderr(second);
        tracing::debug!(?command, "starting a guest");
        let since = Instant::now();
        let child = spawn(command).doing(|| format!("start QEMU for {}", config.name))?;
        let registered = cleanup::child(&child).doing(|| "watch QEMU".into())?;
        let vm = Self {
            name: config.name.clone(),
            child,
            guest: None,
            console,
            accelerator: config.accelerator,
            boot_time: Duration::ZERO,
            monitor_socket: files.monitor,
            monitor: Mutex::new(None),
            _registered: registered,
        };
        Ok(Starting { vm, listener, since })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The guest inside, for running commands.
    pub fn guest(&self) -> &Guest {
        // Set by `wait_for_agent`, the only way to get a `Vm`.
        self.guest.as_ref().expect("a booted guest has an agent")
    }

    /// How its processors run.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// From the start of QEMU to the agent's first answer.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// Process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The whole console log so far.
    pub fn console(&self) -> String {
        read_lossy(&self.console.serial)
    }

    /// Ends QEMU at once, as `kill -9` would.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let _ = self.child.kill();
        self.child.wait().doing(|| format!("wait for QEMU of {}", self.name))
    }

    /// Waits for QEMU to end by itself, after a power-off for example.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait();
            if let Some(status) = ended.doing(|| format!("wait for QEMU of {}", self.name))? {
                return Ok(status);
            }
            if Instant::now() >= until {
                return Err(self.console.gone("waiting for its end", "QEMU still runs"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A machine whose guest has not answered yet; killed when it is dropped.
#[derive(Debug)]
pub struct Starting {
    vm: Vm,
    listener: UnixListener,
    since: Instant,
}

impl Starting {
    /// Waits until the agent answers.
    ///
    /// # Errors
    /// When QEMU ends, or nothing answers within `limit` of the start.
    pub fn wait_for_agent(mut self, limit: Duration) -> Result<Vm> {
        let until = self.since + limit;
        let stream = self.accept(until)?;
        let guest = Guest::connect(stream, self.vm.console.clone())?;
        // The agent may start to listen at any time; what is sent before waits in the port.
        guest.ping(until.saturating_duration_since(Instant::now()))?;
        self.vm.boot_time = self.since.elapsed();
        self.vm.guest = Some(guest);
        Ok(self.vm)
    }

    /// Waits until QEMU has connected, which it does before the guest runs.
    fn accept(&mut self, until: Instant) -> Result<UnixStream> {
        let console = self.vm.console.clone();
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            match poll(&mut fds, Some(&pause)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {
                    let accepted = self.listener.accept();
                    return Ok(accepted.doing(|| "accept the agent's channel".into())?.0);
                }
                Err(error) => return Err(error).doing(|| "wait for QEMU".into()),
            }
            let ended = self.vm.child.try_wait().doing(|| "wait for QEMU".into())?;
            if let Some(status) = ended {
                return Err(console.gone("starting", &format!("QEMU ended ({status})")));
            }
            if Instant::now() >= until {
                return Err(console.gone("starting", "QEMU did not connect in time"));
            }
        }
    }
}

/// Where QEMU finds the other end of the agent's channel.
#[derive(Debug, Clone)]
enum AgentEnd {
    /// At a socket that somebody listens to.
    Socket(PathBuf),
    /// At a device: a serial port of the machine that QEMU itself runs in.
    Device(PathBuf),
}

impl AgentEnd {
    fn path(&self) -> &Path {
        match self {
            Self::Socket(path) | Self::Device(path) => path,
        }
    }
}

/// The files of one machine in the run's folder.
#[derive(Debug)]
struct Files {
    /// Where the agent's channel ends.
    agent: AgentEnd,
    /// Where QEMU serves its monitor.
    monitor: PathBuf,
    /// What the console prints.
    serial: PathBuf,
    /// One for each disk.
    disks: Vec<PathBuf>,
}

impl Files {
    fn new(run: &RunDir, config: &VmConfig) -> Result<Self> {
        let name = &config.name;
        let disk = |number| run.path().join(format!("{name}.disk{number}"));
        Ok(Self {
            agent: AgentEnd::Socket(run.socket(&format!("{name}.agent"))?),
            monitor: run.socket(&format!("{name}.qmp"))?,
            serial: run.path().join(format!("{name}.console.log")),
            disks: (0..config.hardware.disks.len()).map(disk).collect(),
        })
    }
}

/// What a guest and its QEMU have printed, for errors.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) guest: String,
    serial: PathBuf,
    qemu: PathBuf,
}

impl Console {
    pub(crate) fn gone(&self, doing: &str, cause: &str) -> Error {
        let mut console = tail(&read_lossy(&self.serial), CONSOLE_TAIL);
        let qemu = tail(&read_lossy(&self.qemu), CONSOLE_TAIL);
        if !qemu.is_empty() {
            console = format!("{console}\nQEMU said:\n{qemu}");
        }
        Error::Gone { guest: self.guest.clone(), doing: doing.into(), cause: cause.into(), console }
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
