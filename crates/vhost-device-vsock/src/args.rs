// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-vsock`.

mod config;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use clap::builder::TypedValueParser;
use vu_common::CommonArgs;

use crate::backend::unix::Unix;
use crate::backend::{self, Host};
use crate::device::Vsock;
use crate::network::Network;
use crate::worker::Bounds;

/// Serves virtio sockets to virtual machines over vhost-user.
///
/// Each socket is one device for one guest: the first --guest-cid and --uds-path go to the first --socket-path, and so
/// on, or --vm names all of a guest at once.
#[derive(Debug, Parser)]
#[command(name = "vhost-device-vsock", version)]
pub struct VsockArgs {
    /// The options that every device has.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Context id of the guest, from 3 on
    #[arg(long, value_name = "CID", value_parser = guest_cid, conflicts_with = "vm")]
    guest_cid: Vec<u32>,

    /// Unix socket by which processes of the host reach the guest
    ///
    /// A process connects to PATH, says `CONNECT <port>` and a newline, and reads `OK <port>` when the guest has accepted.
    /// What the guest sends to port N of the host goes to the Unix socket `PATH_N`. Seqpacket sockets go by
    /// `PATH_seqpacket`.
    #[arg(long, value_name = "PATH", conflicts_with = "vm")]
    uds_path: Vec<PathBuf>,

    /// Context id to which the guest's connections to the host go by AF_VSOCK, instead of to Unix sockets
    #[arg(long, value_name = "CID", conflicts_with_all = ["vm", "uds_path"])]
    forward_cid: Option<u32>,

    /// Ports of the host's AF_VSOCK that lead to the same ports of the guest, separated by `+`
    #[arg(long, value_name = "PORT+PORT..", requires = "forward_cid", value_parser = ports)]
    #[arg(conflicts_with_all = ["vm", "uds_path"])]
    forward_listen: Option<Ports>,

    /// Groups of the guest, separated by `+`; guests with a group in common may speak to each other
    #[arg(long, value_name = "NAME+NAME..", conflicts_with = "vm")]
    groups: Vec<String>,

    /// A guest: guest-cid=CID,uds-path=PATH,socket=PATH,groups=NAME+NAME
    ///
    /// Instead of uds-path, forward-cid=CID and forward-listen=PORT+PORT. The keys are the long options of this help,
    /// buffer-size, queue-size, memory and connections too. Where no guest has a socket, they go to those of --socket-path in turn.
    /// A comma within a value is written twice.
    #[arg(long, value_name = "KEY=VALUE,..", value_parser = vm)]
    vm: Vec<Vm>,

    /// Guests from a TOML file: tables [[vm]] with the keys of --vm
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vm", "guest_cid", "uds_path", "forward_cid", "groups"])]
    #[arg(value_parser = config::read)]
    config: Option<Config>,

    /// Bytes that one connection may have under way to the host
    #[arg(
        long,
        visible_alias = "tx-buffer-size",
        value_name = "BYTES",
        default_value = "262144"
    )]
    #[arg(value_parser = buffer_size())]
    buffer_size: u32,

    /// Bytes that all connections of a guest may have under way to the host
    ///
    /// When little of it is left, new connections get less than --buffer-size; when nothing is, they are refused.
    #[arg(long, value_name = "BYTES", default_value = "268435456")]
    memory: u64,

    /// Largest virtqueue that a guest may have
    #[arg(long, value_name = "N", value_parser = vu_common::queue_size, default_value = "32768")]
    queue_size: u16,

    /// Connections that a guest may have
    #[arg(long, value_name = "N", default_value = "4096")]
    connections: usize,

    /// The common options with the sockets that guests name, once somebody asks.
    #[arg(skip)]
    with_sockets: OnceLock<CommonArgs>,
}

/// The guests of a file.
#[derive(Clone, Debug)]
struct Config(Vec<Vm>);

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Vm {
    #[arg(long, value_parser = guest_cid)]
    guest_cid: u32,
    #[arg(long, alias = "socket")]
    socket_path: Option<PathBuf>,
    #[arg(long, conflicts_with = "forward_cid", required_unless_present = "forward_cid")]
    uds_path: Option<PathBuf>,
    #[arg(long)]
    forward_cid: Option<u32>,
    #[arg(long, requires = "forward_cid", conflicts_with = "uds_path", value_parser = ports)]
    forward_listen: Option<Ports>,
    #[arg(long, default_value = DEFAULT_GROUP)]
    groups: String,
    #[arg(long, alias = "tx-buffer-size", value_parser = buffer_size())]
    buffer_size: Option<u32>,
    #[arg(long, value_parser = vu_common::queue_size)]
    queue_size: Option<u16>,
    #[arg(long)]
    memory: Option<u64>,
    #[arg(long)]
    connections: Option<usize>,
}

fn buffer_size() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(4096..=16 << 20)
}

/// The context id of a guest that is alone.
const DEFAULT_CID: u32 = 3;
/// The group of guests that are in no other.
const DEFAULT_GROUP: &str = "default";

impl AsRef<CommonArgs> for VsockArgs {
    fn as_ref(&self) -> &CommonArgs {
        self.with_sockets.get_or_init(|| {
            let paths = self.named().iter().filter_map(|vm| vm.socket_path.clone());
            self.common.clone().with_sockets(paths)
        })
    }
}

impl VsockArgs {
    /// Opens the sockets around each guest.
    ///
    /// # Errors
    /// Options that do not fit together, or a socket that cannot be had.
    pub fn open(&self) -> anyhow::Result<Vec<Vsock>> {
        let network = Network::new();
        let vms = self.vms()?;
        self.check_sockets()?;
        for (at, vm) in vms.iter().enumerate() {
            let twice = vms.iter().take(at).any(|other| other.guest_cid == vm.guest_cid);
            ensure!(!twice, "two guests with the context id {}", vm.guest_cid);
        }
        vms.iter()
            .map(|vm| {
                let bounds = Bounds {
                    buffer: vm.buffer_size.unwrap_or(self.buffer_size),
                    memory: vm.memory.unwrap_or(self.memory),
                    connections: vm.connections.unwrap_or(self.connections),
                };
                let groups = vm.groups.split('+').map(str::to_owned).collect();
                let device = Vsock::new(vm.guest_cid, vm.host()?, &network, groups, bounds);
                Ok(device.with_queue_size(vm.queue_size.unwrap_or(self.queue_size)))
            })
            .collect()
    }

    /// The guests of `--vm` or `--config`.
    fn named(&self) -> &[Vm] {
        self.config.as_ref().map_or(&self.vm, |Config(vms)| vms)
    }

    /// All guests have a socket of their own, or none has.
    fn check_sockets(&self) -> anyhow::Result<()> {
        let has = |vm: &&Vm| vm.socket_path.is_some();
        let Some(with) = self.named().iter().find(has) else {
            return Ok(());
        };
        if let Some(without) = self.named().iter().find(|vm| !has(vm)) {
            let (with, without) = (with.guest_cid, without.guest_cid);
            bail!("guest {with} has a socket of its own, guest {without} has none");
        }
        let others = self.common.sockets();
        ensure!(
            others == 0,
            "each guest has a socket of its own, and there are {others} more"
        );
        Ok(())
    }

    fn vms(&self) -> anyhow::Result<Vec<Vm>> {
        if !self.named().is_empty() {
            return Ok(self.named().to_vec());
        }
        let (cids, paths) = (self.guest_cid.len(), self.uds_path.len());
        if self.forward_cid.is_some() {
            ensure!(
                cids <= 1 && self.groups.len() <= 1,
                "--forward-cid is for one guest; --vm is for several"
            );
            return Ok(vec![self.vm_at(0)]);
        }
        ensure!(
            paths > 0,
            "no --uds-path, nor --vm: nobody of the host could speak to the guest"
        );
        ensure!(
            cids == paths || (cids == 0 && paths == 1),
            "{cids} times --guest-cid, but {paths} times --uds-path"
        );
        ensure!(self.groups.len() <= paths, "more often --groups than --uds-path");
        Ok((0..paths).map(|at| self.vm_at(at)).collect())
    }

    /// The guest that the options number `at` name.
    fn vm_at(&self, at: usize) -> Vm {
        Vm {
            guest_cid: self.guest_cid.get(at).copied().unwrap_or(DEFAULT_CID),
            socket_path: None,
            uds_path: self.uds_path.get(at).cloned(),
            forward_cid: self.forward_cid,
            forward_listen: self.forward_listen.clone(),
            groups: self
                .groups
                .get(at)
                .map_or(DEFAULT_GROUP, String::as_str)
                .to_owned(),
            buffer_size: None,
            queue_size: None,
            memory: None,
            connections: None,
        }
    }
}

impl Vm {
    /// The guest that options without their command name.
    fn of_words(words: impl Iterator<Item = String>) -> Result<Self, String> {
        Self::try_parse_from(words).map_err(|e| {
            let message = e.to_string();
            let first = message.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        })
    }

    /// The host as this guest sees it.
    fn host(&self) -> anyhow::Result<Box<dyn Host>> {
        match (&self.uds_path, self.forward_cid) {
            (Some(path), _) => {
                let host = Unix::new(path).with_context(|| path.display().to_string())?;
                Ok(Box::new(host))
            }
            (None, Some(cid)) => {
                let ports = self.forward_listen.as_ref().map_or(&[][..], |Ports(ports)| ports);
                let host = backend::vsock::Vsock::new(cid, ports).context("the AF_VSOCK of the host")?;
                Ok(Box::new(host))
            }
            (None, None) => bail!("neither uds-path nor forward-cid"),
        }
    }
}

/// The value of `--forward-listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports(Vec<u32>);

fn ports(text: &str) -> Result<Ports, String> {
    let port = |word: &str| word.parse().map_err(|e| format!("{word:?}: {e}"));
    text.split('+').map(port).collect::<Result<_, _>>().map(Ports)
}

fn guest_cid(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(cid) if cid >= 3 && cid != u32::MAX => Ok(cid),
        Ok(_) => Err("reserved (a guest has one from 3 to 4294967294)".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// The value of `--vm`, read as a command line of its own.
fn vm(text: &str) -> Result<Vm, String> {
    let text = text.replace(",,", "\0");
    let words = text
        .split(',')
        .map(|word| format!("--{}", word.replace('\0', ",")));
    Vm::of_words(words)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::VsockArgs;

    fn parse(options: &[&str]) -> Result<VsockArgs, clap::Error> {
        let fixed = ["vhost-device-vsock", "--socket-path", "/tmp/v.sock"];
        VsockArgs::try_parse_from(fixed.iter().chain(options))
    }

    #[test]
    fn the_option_table_is_consistent() {
        VsockArgs::command().debug_assert();
    }

    #[test]
    fn a_guest_is_named_by_options_or_by_one() {
        let by_options = parse(&["--guest-cid", "7", "--uds-path", "/a,b", "--groups", "x+y"]).unwrap();
        let by_one = parse(&["--vm", "guest-cid=7,uds-path=/a,,b,groups=x+y"]).unwrap();
        assert_eq!(by_options.vms().unwrap(), by_one.vms().unwrap());
        let alone = parse(&["--uds-path", "/a"]).unwrap().vms().unwrap();
        assert_eq!((alone[0].guest_cid, &*alone[0].groups), (3, "default"));
    }

    #[test]
    fn each_guest_may_have_a_socket_of_its_own() {
        let bare = |options: &[&str]| {
            let args = VsockArgs::try_parse_from(["vhost-device-vsock"].iter().chain(options)).unwrap();
            (
                args.as_ref().sockets(),
                args.check_sockets().map_err(|e| e.to_string()),
            )
        };
        let (a, b) = (
            "guest-cid=3,uds-path=/a,socket=/s",
            "guest-cid=4,uds-path=/b,socket-path=/t",
        );
        let without = "guest-cid=5,uds-path=/c";
        assert_eq!(bare(&["--vm", a, "--vm", b]), (2, Ok(())));
        assert_eq!(bare(&["--vm", without, "--socket-path", "/s"]), (1, Ok(())));
        let error = bare(&["--vm", a, "--vm", without]).1.unwrap_err();
        assert_eq!(error, "guest 3 has a socket of its own, guest 5 has none");
        let error = bare(&["--vm", a, "--socket-path", "/u"]).1.unwrap_err();
        assert_eq!(error, "each guest has a socket of its own, and there are 1 more");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for options in [
            &[][..],
            &["--guest-cid", "3"],
            &["--guest-cid", "3", "--guest-cid", "4", "--uds-path", "/a"],
            &["--uds-path", "/a", "--uds-path", "/b"],
        ] {
            assert!(parse(options).unwrap().vms().is_err(), "{options:?}");
        }
        for options in [
            &["--guest-cid", "2"][..],
            &["--guest-cid", "4294967295"],
            &["--vm", "guest-cid=3"],
            &["--vm", "guest-cid=3,uds-path=/a,x=1"],
            &["--vm", "guest-cid=3,uds-path=/a", "--uds-path", "/b"],
            &["--vm", "guest-cid=3,uds-path=/a,forward-cid=1"],
            &["--uds-path", "/a", "--forward-cid", "1"],
            &["--uds-path", "/a", "--forward-listen", "80"],
            &["--forward-cid", "1", "--forward-listen", "80+x"],
        ] {
            assert!(parse(options).is_err(), "{options:?}");
        }
    }
}
