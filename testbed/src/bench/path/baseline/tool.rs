// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Running somebody else's measuring program: a server on the worker's core, a client on the other.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Doing, Error, Result, tail},
    process::{cleanup, spawn},
};

/// How long a server may take until it listens, or a client until it has measured.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts both sides and returns what the client printed to its standard output. The server gets
/// `port` to listen on by its own options, as the client has it in `client`.
///
/// # Errors
/// When the program is not installed, does not start to listen, or the client fails.
pub(super) fn run(server: Command, client: Command, port: u16, package: &str) -> Result<String> {
    let program = client.get_args().nth(2).unwrap_or_default().to_string_lossy().into_owned();
    if !installed(&program) {
        return Err(Error::unfit(
            format!("{program} is not installed"),
            format!("`apt-get install {package}` brings it"),
        ));
    }
    let mut server = Running::start(server)?;
    let since = Instant::now();
    while !listens(port) {
        if let Some(status) = server.child.try_wait().doing(|| format!("look at {program}"))? {
            let text = server.output();
            return Err(Error::unfit(
                format!("the server of {program} ended ({status}): {}", tail(&text, 5)),
                "Run it by hand",
            ));
        }
        if since.elapsed() > LIMIT {
            return Err(Error::unfit(format!("{program} does not listen"), "Run it by hand"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    let mut client = Running::start(client)?;
    let since = Instant::now();
    let status = loop {
        if let Some(status) = client.child.try_wait().doing(|| format!("wait for {program}"))? {
            break status;
        }
        if since.elapsed() > LIMIT {
            return Err(Error::unfit(format!("{program} does not end"), "Run it by hand"));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = client.output();
    if !status.success() {
        return Err(Error::unfit(
            format!("{program} failed ({status}): {}", tail(&text, 5)),
            "Run it by hand",
        ));
    }
    Ok(text)
}

/// A program on a core.
pub(super) fn on_core(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

/// A TCP port that was free a moment ago.
///
/// # Errors
/// If there is none.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let port = listener.and_then(|listener| Ok(listener.local_addr()?.port()));
    port.doing(|| "find a free port".into())
}

fn installed(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// Whether somebody listens on `port`. Without connecting, since servers take the first who does.
fn listens(port: u16) -> bool {
    let files = ["/proc/net/tcp", "/proc/net/tcp6"].map(Path::new);
    let texts = files.map(|file| fs::read_to_string(file).unwrap_or_default());
    texts.iter().any(|text| has_listener(text, port))
}

fn has_listener(table: &str, port: u16) -> bool {
    /// The state of a socket that listens.
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1));
        local.ends_with(&end) && state == Some(LISTEN)
    })
}

/// A child that ends with this value.
struct Running {
    child: Child,
    _registered: cleanup::Registered,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawn(command).doing(|| format!("start {name}"))?;
        let registered = cleanup::child(&child).doing(|| format!("watch {name}"))?;
        Ok(Self { child, _registered: registered })
    }

    /// What it printed, some KiB at most while it runs; standard error first.
    fn output(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        if let Some(mut stdout) = self.child.stdout.take() {
            let _ = stdout.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_seen_in_the_kernels_table() {
        const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 00000000:3419 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n   \
            1: 0100007F:A0B1 0100007F:3420 01 00000000:00000000 00:00000000 00000000\n";
        assert!(has_listener(TABLE, 0x3419));
        assert!(!has_listener(TABLE, 0xa0b1) && !has_listener(TABLE, 0x3420));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(listens(listener.local_addr().unwrap().port()));
    }

    #[test]
    fn what_is_not_installed_names_its_package() {
        let command = || on_core(0, "no-such-program");
        let error = run(command(), command(), 1, "no-such-package").unwrap_err().to_string();
        assert!(error.contains("no-such-program is not installed"), "{error}");
        assert!(error.contains("apt-get install no-such-package"), "{error}");
    }
}
