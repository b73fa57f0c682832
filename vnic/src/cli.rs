// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand};

use crate::config::{PortEntry, Tuning};
use crate::log::LogFormat;

const EXAMPLES: &str = "\
Examples:
  One guest:
    vnic run --socket /tmp/vm0.sock --mac 52:54:00:00:00:01
    qemu-system-x86_64 ... -object memory-backend-memfd,id=ram,size=1G,share=on \\
      -machine memory-backend=ram -chardev socket,id=vnic,path=/tmp/vm0.sock \\
      -device vhost-user-test-device-pci,chardev=vnic,virtio-id=38,num_vqs=4,vq_size=256,config_size=256,page-per-vq=on

  Two guests that reach each other:
    vnic run --port name=vm0,socket=/tmp/vm0.sock --port name=vm1,socket=/tmp/vm1.sock

  What they do:
    vnic status

Each command has its own --help.";

const RUN_EXAMPLES: &str = "\
Examples:
  vnic run --socket /tmp/vm0.sock
  vnic run --port name=a,socket=/tmp/a.sock,mac=52:54:00:00:00:01,network=blue --workers 2
  vnic run --config /etc/vnic.toml --log-format json

A configuration file:
  workers = 2                 # as --workers; so the next three
  spin_us = 50
  chunk_kib = 128
  past_caches_mib = 16
  control = \"/run/vnic/control.sock\"

  [limits]                    # of each port; all optional
  max_qp = 1024
  max_page_requests = 64      # unanswered by the guest; a process or a peer gets a share
  page_request_rate = 100000  # per second, 0 for no limit
  page_request_burst = 1000
  page_timeout_ms = 30000     # then a request that waits for a page fails

  [[port]]
  name = \"vm0\"
  socket = \"/run/vnic/vm0.sock\"
  mac = \"52:54:00:00:00:01\"
  network = \"default\"
  implicit_mr = false    # true lets programs register their whole address space with one key
  direct = false         # true lets queue pairs reach RDMA endpoints that know nothing of vnic

  [wire]                      # to guests of other daemons; without it there are none
  name = \"host-a\"           # what the others call this one; the host's name if missing
  device = \"rxe0\"           # an RDMA device of this host; without it messages go over TCP, encrypted
  gid_index = 1               # which of its addresses; found if missing
  slots = 64                  # messages under way in each lane and direction, and
  slot_kib = 32               # KiB of each: all the memory that is ever registered with the device
  listen = \"10.0.0.1:18600\"  # for peers whose names come before this one's: they call

  [direct]                    # for the ports with direct = true
  device = \"rxe0\"           # an RDMA device of this host; that of the wire if missing
  gid_index = 1               # which of its addresses is this host's; found if missing
  addresses = \"own\"         # the interface gets the guests' addresses; \"mapped\": guests send by
                              # the host's, and tenants may have the same addresses
  allow = [\"10.0.0.0/24\"]   # with \"own\": addresses that guests may have, and nobody else has
  odp = \"auto\"               # guests keep their pages where they are, unless the device pages on
                              # demand and passes a trial; \"never\": always; \"trust\": try also what
                              # rxe of some kernels does not survive

  [[direct.map]]              # a peer that the guests of a network know by another address
  network = \"default\"
  guest = \"10.0.0.9\"
  host = \"192.0.2.9\"

  [[peer]]
  name = \"host-b\"
  address = \"10.0.0.2:18600\" # this daemon calls peers whose names come behind its own
  key_file = \"/etc/vnic/host-b.key\" # 64 hexadecimal digits, the same there: openssl rand -hex 32
  networks = [\"default\"]    # that both have a part in; all if missing

A port serves one guest at a time: when QEMU ends, the next one may connect; one that comes too early
waits. Ports reach the ports of the same network. SIGTERM or Ctrl-C ends the daemon and removes its
sockets; a second one ends it at once. VNIC_LOG=FILTER replaces -v (for instance VNIC_LOG=vnic=trace).";

const STATUS_EXAMPLES: &str = "\
Examples:
  vnic status
  vnic status --json | jq '.ports[] | select(.connected) | .objects'

Columns: GUEST says whether a VM is connected, DRIVER whether its driver has started the device; PASID
to QP count what the guest holds now; FAULTS is page requests outstanding/so far; MERGED is waits for a page
that was asked for already, AHEAD pages asked for before they were needed, DEFER waits that the budget
of page requests put off. All but the first number of FAULTS count since the driver started, as do SENDS
and BYTES.";

/// Tongtu vNIC: a virtual RDMA NIC for QEMU guests.
///
/// The daemon gives each guest an RDMA device over vhost-user. Guests in the same network reach each
/// other; unmodified verbs programs run on it, and their memory is not pinned.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve guests until stopped by a signal.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Show what a running daemon serves.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(Status),
    /// Check a configuration file and show its ports.
    ConfigCheck {
        /// The file.
        file: PathBuf,
    },
}

/// Options of `vnic run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("ports").args(["socket", "port", "config"]).multiple(true).required(true))]
pub struct Run {
    /// Serve one port on this socket, named after it.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// MAC address of the guest's network device, for the port of --socket.
    #[arg(long, requires = "socket")]
    pub mac: Option<String>,
    /// Serve a port: socket=PATH[,name=NAME][,mac=MAC][,network=NETWORK][,implicit_mr=true]
    /// [,direct=true]. May be repeated.
    #[arg(long, value_name = "SPEC", value_parser = parse_port)]
    pub port: Vec<PortEntry>,
    /// Serve the ports of a TOML file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What carries messages to other daemons: an RDMA device of this host (rxe0, mlx5_0), or tcp. Takes the
    /// place of wire.device in the file, which has to name this daemon and its peers.
    #[arg(long, value_name = "DEVICE", requires = "config")]
    pub wire: Option<String>,
    /// How the engine works.
    #[command(flatten)]
    pub tuning: Tuning,
    /// Control socket for `vnic status` [default: /run/vnic/control.sock for root, else
    /// $XDG_RUNTIME_DIR/vnic/control.sock].
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Print the line `ready` to standard output when every socket listens.
    #[arg(long)]
    pub ready: bool,
    /// Shape of the log lines on standard error.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Log more: -v for events, -vv for every command.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Options of `vnic status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Control socket of the daemon [default: as for `vnic run --control`].
    #[arg(long, visible_alias = "control", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// JSON in place of a table.
    #[arg(long)]
    pub json: bool,
}

impl Run {
    /// The ports that options name.
    pub fn ports(&self) -> Vec<PortEntry> {
        let single = self.socket.iter().map(|socket| PortEntry {
            name: None,
            socket: socket.clone(),
            mac: self.mac.clone(),
            network: None,
            implicit_mr: false,
            direct: false,
        });
        single.chain(self.port.iter().cloned()).collect()
    }
}

/// Parses `socket=PATH[,name=NAME][,mac=MAC][,network=NETWORK][,implicit_mr=true][,direct=true]`.
fn parse_port(text: &str) -> Result<PortEntry, String> {
    let (mut name, mut socket, mut mac, mut network) = (None, None, None, None);
    let (mut implicit_mr, mut direct) = (None, None);
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=') else {
            return Err(format!("{part:?} is not KEY=VALUE"));
        };
        let slot = match key {
            "name" => &mut name,
            "socket" => &mut socket,
            "mac" => &mut mac,
            "network" => &mut network,
            "implicit_mr" => &mut implicit_mr,
            "direct" => &mut direct,
            _ => {
                return Err(format!(
                    "{key:?} is none of socket, name, mac, network, implicit_mr, direct"
                ));
            }
        };
        if slot.replace(value.to_owned()).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    let socket = socket.ok_or("socket=PATH is missing")?.into();
    let choice = |key: &str, value: Option<String>| match value.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(format!("{key}={other} is neither true nor false")),
    };
    let implicit_mr = choice("implicit_mr", implicit_mr)?;
    let direct = choice("direct", direct)?;
    Ok(PortEntry { name, socket, mac, network, implicit_mr, direct })
}
