//! The whole of a create, as a list of steps in their order; what carries them out is elsewhere.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use envd::wire;
use rctl_sys::{
    jail::{Params, Share},
    mount::Mount,
    rule::Rule,
};

use super::{furniture, furniture::Entry, limits};
use crate::{
    backend::{CellSpec, Error, JailOptions, Layer, NetworkMode},
    network::Filter,
    sandbox::SandboxId,
};

/// Of what jails may be allowed.
const REFUSED: [&str; 8] = [
    "set_hostname",
    "raw_sockets",
    "chflags",
    "mount",
    "quotas",
    "socket_af",
    "mlock",
    "read_msgbuf",
];

/// Of a sandbox's directory: the root of its jail.
pub(super) const ROOT: &str = "root";

/// What a sandbox's root is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Root {
    /// A clone of the template's snapshot: all of it can be written.
    Clone { layer: PathBuf, dataset: String },
    /// The template's directories, of which some are shared and some are copied: `furniture`. What
    /// would be copied is `over` that, where the template is the copy of a sandbox.
    Thin { layer: PathBuf, entries: Vec<Entry>, over: Option<PathBuf> },
}

/// Whose network stack a jail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    /// One of its own: a vnet.
    Own,
    /// The host's, loopback included.
    Host,
    /// The host's, but none of its addresses: a private one in 127/8 that lo0 has already.
    Loopback(Ipv4Addr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Whatever the umask is. Fails if there is anything.
    Directory {
        path: PathBuf,
        mode: u32,
    },
    /// As above, unless there is one already; fails if that is no directory but leads elsewhere.
    Place {
        path: PathBuf,
        mode: u32,
    },
    /// A file, link or tree, with owners and modes.
    Copy {
        from: PathBuf,
        to: PathBuf,
    },
    /// What is in a directory, into one that is there.
    CopyInto {
        from: PathBuf,
        to: PathBuf,
    },
    /// Takes the place of what is there.
    Write {
        path: PathBuf,
        text: String,
    },
    /// A dataset from the layer's snapshot.
    Clone {
        layer: PathBuf,
        id: SandboxId,
        disk: Option<u64>,
    },
    Mount(Mount),
    Rule(Rule),
    Jail(Params),
    /// The CPUs of the jail.
    Cpus(Vec<u16>),
    Network(NetworkMode),
    /// envd, up to its answer.
    Envd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan(Vec<Step>);

impl Plan {
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }
}

/// What is decided before the first step.
#[derive(Clone, Debug)]
pub(super) struct Decided<'a> {
    /// The sandbox's directory, which is there.
    pub(super) directory: &'a Path,
    pub(super) root: Root,
    pub(super) stack: Stack,
    /// Of devfs(8).
    pub(super) ruleset: u16,
    pub(super) cpus: Vec<u16>,
    pub(super) dns: &'a [IpAddr],
    pub(super) options: JailOptions,
}

/// Root, devices, limits, jail, network, envd. The limits come before the jail, so that nothing
/// ever runs in it without them.
pub(super) fn plan(spec: &CellSpec, decided: Decided<'_>) -> Result<Plan, Error> {
    let id = spec.id;
    let root = decided.directory.join(ROOT);
    let is_kept = spec.layer == Layer::Kept;
    let mut steps = match is_kept {
        true => vec![Step::Place { path: root.clone(), mode: 0o755 }],
        false => vec![Step::Directory { path: root.clone(), mode: 0o755 }],
    };
    match decided.root {
        Root::Clone { layer, dataset } => {
            if !is_kept {
                steps.push(Step::Clone { layer, id, disk: spec.limits.disk_bytes });
            }
            steps.push(Step::Mount(Mount::new("zfs", &root).option("from", dataset)));
        }
        Root::Thin { layer, entries, over } => {
            if decided.options.tmpfs && !is_kept {
                let size = spec.limits.disk_bytes.unwrap_or(spec.limits.memory_bytes);
                steps.push(Step::Mount(Mount::new("tmpfs", &root).size(size)));
            }
            steps.extend(match (is_kept, over) {
                (true, _) => furniture::shared(&layer, &root, &entries),
                (false, Some(over)) => furniture::over(over, &layer, &root, &entries),
                (false, None) => furniture::thin(&layer, &root, &entries),
            });
        }
    }
    if !is_kept {
        // Who has no network yet may be given one.
        steps.extend(furniture::identity(
            &root,
            &id.to_string(),
            decided.dns,
            wire::identity(&id.to_string(), &spec.template.id),
        ));
    }
    steps.extend(furniture::devices(&root, decided.ruleset));
    if decided.options.procfs {
        steps.extend(furniture::processes(&root));
    }
    steps.extend(limits::rules(id, spec.limits, decided.options)?.into_iter().map(Step::Rule));
    steps.push(Step::Jail(jail(id, &root, decided.ruleset, decided.stack)));
    steps.push(Step::Cpus(decided.cpus));
    steps.push(Step::Network(spec.network));
    steps.push(Step::Envd);
    Ok(Plan(steps))
}

/// The parameters of jail(8); docs/freebsd.md says of each what it keeps in. Of `allow` only what
/// 13.2 knows is named: what came later is off anyway (`JAIL_DEFAULT_ALLOW` in
/// sys/kern/kern_jail.c), and what is on in all of them stays so: low ports, root, and debuggers of
/// one's own.
///
/// FreeBSD: in a jail with a stack of its own root may open any socket, whatever `raw_sockets` and
/// `socket_af` say (`prison_priv_check` and `prison_check_af`, there). They are for the others.
fn jail(id: SandboxId, path: &Path, ruleset: u16, stack: Stack) -> Params {
    let params = Params::new()
        .text("name", id.cell_name())
        .text("path", path)
        .text("host.hostname", id.to_string())
        .flag("persist", true)
        .int("enforce_statfs", 2)
        .int("children.max", 0)
        .int("devfs_ruleset", i32::from(ruleset))
        // The most a jail can have; FreeBSD: it may only ever be raised.
        .int("securelevel", 3)
        .share("sysvmsg", Share::New)
        .share("sysvsem", Share::New)
        .share("sysvshm", Share::New);
    let params =
        REFUSED.into_iter().fold(params, |params, it| params.flag(&format!("allow.{it}"), false));
    match stack {
        Stack::Own => params.share("vnet", Share::New),
        Stack::Host => params.share("ip4", Share::Inherit).share("ip6", Share::Inherit),
        Stack::Loopback(address) => {
            params.share("ip4", Share::New).ip4_addr(&[address]).share("ip6", Share::Disable)
        }
    }
}

/// What a network policy means to a jail that lives and has no link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unlinked {
    /// It reaches no more than that.
    Stays,
    /// It has to have one.
    Links,
    /// Nothing of ours is between it and the host's network.
    IsTheHosts,
}

/// `has_address`: one of 127/8, and no other ([`Stack::Loopback`]).
pub(super) fn unlinked(has_stack: bool, has_address: bool, filter: &Filter) -> Unlinked {
    match filter.is_closed() {
        true if has_stack || has_address => Unlinked::Stays,
        _ if !has_stack => Unlinked::IsTheHosts,
        _ => Unlinked::Links,
    }
}

#[cfg(test)]
mod tests;
