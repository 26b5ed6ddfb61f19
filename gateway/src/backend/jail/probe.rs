//! What `coppice doctor` says of this host: finding out what `probe_checks` judges. Changes
//! nothing.

use std::{ffi::CString, path::Path, time::Duration};

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::geteuid,
};
use rctl_sys::{mount, sysctl};

use super::{
    devfs, net_sys,
    pf::{self, ANCHORS},
    probe_checks::{self, Ceilings, Facts, Filter, Module, ModuleState},
    program::run,
};
use crate::backend::{Check, Settings};

const PATIENCE: Duration = Duration::from_secs(10);

/// Looks the host over for `planned` sandboxes at once; changes nothing.
pub(super) fn all(settings: &Settings, planned: usize) -> Vec<Check> {
    probe_checks::checks(&facts(settings), planned)
}

fn facts(settings: &Settings) -> Facts {
    let data = mount::statfs(&settings.data_dir);
    let data = data
        .map(|found| (found.fstype, found.from.to_string_lossy().into_owned()))
        .map_err(|error| error.to_string());
    let vimage = sysctl::feature("vimage").unwrap_or(false);
    let mut wanted = vec!["nullfs", "fdescfs"];
    if data.as_ref().is_ok_and(|(kind, _)| kind == "zfs") {
        wanted.push("zfs");
    }
    if vimage {
        wanted.push("if_epair");
    }
    if settings.jail.procfs {
        wanted.push("procfs");
    }
    if settings.jail.tmpfs {
        wanted.push("tmpfs");
    }
    Facts {
        uid: geteuid().as_raw(),
        jailed: sysctl::jailed().unwrap_or(false),
        release: (
            sysctl::string("kern.osrelease").ok().flatten().unwrap_or_else(|| "unknown".into()),
            sysctl::integer("kern.osreldate").ok().flatten().unwrap_or(0),
        ),
        racct: sysctl::racct_enabled().ok().flatten(),
        rctl: sysctl::feature("rctl").unwrap_or(false),
        vimage,
        modules: wanted.into_iter().map(module).collect(),
        securelevel: sysctl::integer("kern.securelevel").ok().flatten().unwrap_or(-1),
        ruleset: devfs::is_there().map_err(|error| error.to_string()),
        data,
        data_dir: settings.data_dir.display().to_string(),
        filter: filter(),
        forwarding: sysctl::integer("net.inet.ip.forwarding").ok().flatten().map(|on| on == 1),
        ceilings: Ceilings {
            maxproc: number("kern.maxproc"),
            maxprocperuid: number("kern.maxprocperuid"),
            maxfiles: number("kern.maxfiles"),
            nofile: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .and_then(|(_, hard)| u64::try_from(hard).ok()),
        },
    }
}

fn number(name: &str) -> Option<u64> {
    sysctl::integer(name).ok().flatten().and_then(|value| u64::try_from(value).ok())
}

fn module(name: &'static str) -> Module {
    let loaded = CString::new(name).is_ok_and(|name| net_sys::has_module(&name));
    let state = match loaded {
        true => ModuleState::Loaded,
        false if file_is_there(name) => ModuleState::Loadable,
        false => ModuleState::Missing,
    };
    Module { name, state }
}

fn file_is_there(module: &str) -> bool {
    let path = sysctl::string("kern.module_path").ok().flatten().unwrap_or_default();
    path.split(';').any(|directory| Path::new(directory).join(format!("{module}.ko")).exists())
}

fn filter() -> Filter {
    let ask = |what: &str| run(&["/sbin/pfctl", "-s", what], "", PATIENCE).ok();
    let enabled = ask("info").map(|info| pf::is_enabled(&info));
    let lacks = |(anchor, kind): (&'static str, &str)| {
        let leads = ask(kind).is_some_and(|listing| pf::leads_here(&listing, anchor));
        (!leads).then_some(anchor)
    };
    Filter {
        has_file: Path::new("/etc/pf.conf").exists(),
        lacking: match enabled {
            Some(_) => ANCHORS.into_iter().zip(["nat", "rules"]).filter_map(lacks).collect(),
            None => Vec::new(),
        },
        before_ours: ask("rules").and_then(|rules| pf::decides_before(&rules, ANCHORS[1])),
        states: ask("memory").and_then(|memory| pf::state_limit(&memory)),
        enabled,
    }
}
