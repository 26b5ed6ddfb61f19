//! The whole of a create, as a list of steps in their order; what carries them out is elsewhere.

use std::{net::Ipv4Addr, path::PathBuf};

use envd::wire;
use rctl_sys::{
    jail::{Params, Share},
    mount::Mount,
    rule::Rule,
};

use super::{furniture, furniture::Entry, holding::Holding, limits};
use crate::{
    backend::{CellSpec, Error, NetworkMode},
    sandbox::SandboxId,
};

/// Of a sandbox's directory: the root of its jail.
pub(super) const ROOT: &str = "root";

/// What a sandbox's root is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Root {
    /// A clone of the template's snapshot: all of it can be written.
    Clone { layer: PathBuf, dataset: String },
    /// The template's directories, of which some are shared and some are copied: `furniture`.
    Thin { layer: PathBuf, entries: Vec<Entry> },
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
    /// Takes the place of what is there.
    Write {
        path: PathBuf,
        text: String,
    },
    /// A dataset from the layer's snapshot.
    Clone {
        layer: PathBuf,
        id: SandboxId,
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

impl Step {
    /// On what list it is undone. `None` for what is in the sandbox's directory and goes with it.
    pub(super) fn holding(&self) -> Option<Holding> {
        match self {
            Self::Directory { .. }
            | Self::Place { .. }
            | Self::Copy { .. }
            | Self::Write { .. } => None,
            Self::Clone { .. } => Some(Holding::Clone),
            Self::Mount(_) => Some(Holding::Mounts),
            Self::Rule(_) => Some(Holding::Rules),
            Self::Jail(_) | Self::Cpus(_) | Self::Envd => Some(Holding::Jail),
            Self::Network(_) => Some(Holding::Network),
        }
    }
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
    pub(super) directory: &'a std::path::Path,
    pub(super) root: Root,
    pub(super) stack: Stack,
    /// Of devfs(8).
    pub(super) ruleset: u16,
    pub(super) cpus: Vec<u16>,
    pub(super) dns: &'a [std::net::IpAddr],
}

/// Root, devices, limits, jail, network, envd. The limits come before the jail, so that nothing
/// ever runs in it without them.
pub(super) fn plan(spec: &CellSpec, decided: Decided<'_>) -> Result<Plan, Error> {
    let id = spec.id;
    let root = decided.directory.join(ROOT);
    let mut steps = vec![Step::Directory { path: root.clone(), mode: 0o755 }];
    match decided.root {
        Root::Clone { layer, dataset } => {
            steps.push(Step::Clone { layer, id });
            steps.push(Step::Mount(Mount::new("zfs", &root).option("from", dataset)));
        }
        Root::Thin { layer, entries } => steps.extend(furniture::thin(&layer, &root, &entries)),
    }
    let dns = if spec.network == NetworkMode::None { &[] } else { decided.dns };
    steps.extend(furniture::identity(
        &root,
        &id.to_string(),
        dns,
        wire::identity(&id.to_string(), &spec.template.id),
    ));
    steps.extend(furniture::devices(&root, decided.ruleset));
    steps.extend(limits::rules(id, spec.limits)?.into_iter().map(Step::Rule));
    let path = root.to_str().ok_or_else(|| {
        Error::Unsupported(format!("the path of a jail is text: {}", root.display()))
    })?;
    steps.push(Step::Jail(jail(id, path, decided.ruleset, decided.stack)));
    steps.push(Step::Cpus(decided.cpus));
    steps.push(Step::Network(spec.network));
    steps.push(Step::Envd);
    Ok(Plan(steps))
}

/// The parameters of jail(8). What it may not be allowed on 13.2 is not named: it is off anyway.
fn jail(id: SandboxId, path: &str, ruleset: u16, stack: Stack) -> Params {
    let params = Params::new()
        .text("name", &id.cell_name())
        .text("path", path)
        .text("host.hostname", &id.to_string())
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
        ["set_hostname", "raw_sockets", "chflags", "mount", "quotas", "socket_af", "mlock"]
            .into_iter()
            .fold(params, |params, what| params.flag(&format!("allow.{what}"), false));
    match stack {
        Stack::Own => params.share("vnet", Share::New),
        Stack::Host => params.share("ip4", Share::Inherit).share("ip6", Share::Inherit),
        Stack::Loopback(address) => {
            params.share("ip4", Share::New).ip4_addr(&[address]).share("ip6", Share::Disable)
        }
    }
}
