//! What `coppice doctor` says of this host: from what was found out about it to what is good, what
//! is missing, and the line that mends it. Finds out nothing itself; `probe` does.

use super::pf::ANCHORS;
use crate::backend::{Check, Verdict};

/// The oldest that anything was tried on: `kern.osreldate` of 13.2.
const OLDEST: i64 = 1_302_001;
/// Processes a busy sandbox is expected to have, and files, for the host-wide ceilings.
const PROCESSES_EACH: u64 = 64;
const FILES_EACH: u64 = 512;
/// Connections, each of them a state on its link and one on the way out.
const STATES_EACH: u64 = 256;

/// What was found out. `None` is what could not be: not the same as a no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) uid: u32,
    pub(super) jailed: bool,
    /// `13.2-RELEASE`, `kern.osreldate`.
    pub(super) release: (String, i64),
    /// `kern.racct.enable`; `None` where the kernel has no such thing.
    pub(super) racct: Option<bool>,
    pub(super) rctl: bool,
    pub(super) vimage: bool,
    pub(super) modules: Vec<Module>,
    /// Above 0 no module can be loaded: security(7).
    pub(super) securelevel: i64,
    /// Whether our devfs ruleset is there; the error where it cannot be read.
    pub(super) ruleset: Result<bool, String>,
    /// Type and source of the file system of the data directory.
    pub(super) data: Result<(String, String), String>,
    pub(super) data_dir: String,
    pub(super) filter: Filter,
    pub(super) forwarding: Option<bool>,
    pub(super) ceilings: Ceilings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) state: ModuleState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModuleState {
    /// Or built in.
    Loaded,
    /// Its file is where the kernel looks for it.
    Loadable,
    Missing,
}

/// What pfctl(8) says, as far as it could be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) has_file: bool,
    /// `None`: pfctl could not ask, as pf is not loaded.
    pub(super) enabled: Option<bool>,
    /// Lines of [`ANCHORS`] that the loaded rules lack.
    pub(super) lacking: Vec<&'static str>,
    /// The first rule that is `quick` and comes before ours.
    pub(super) before_ours: Option<String>,
    pub(super) states: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ceilings {
    pub(super) maxproc: Option<u64>,
    /// One user's of all jails together: they share their numbers.
    pub(super) maxprocperuid: Option<u64>,
    pub(super) maxfiles: Option<u64>,
    /// The gateway's own files.
    pub(super) nofile: Option<u64>,
}

pub(super) fn checks(facts: &Facts, planned: usize) -> Vec<Check> {
    let planned = planned as u64;
    let mut checks = vec![release(facts), root(facts), racct(facts), vimage(facts)];
    checks.extend(facts.modules.iter().map(|wanted| module(wanted, facts.securelevel)));
    checks.extend([ruleset(facts), zfs(facts), filter(facts), forwarding(facts)]);
    checks.extend(ceilings(facts, planned));
    checks
}

fn check(what: &'static str, verdict: Verdict, found: impl Into<String>) -> Check {
    Check { what, verdict, found: found.into(), mend: None }
}

fn mend(mut check: Check, how: impl Into<String>) -> Check {
    if check.verdict != Verdict::Good {
        check.mend = Some(how.into());
    }
    check
}

fn good_if(good: bool, otherwise: Verdict) -> Verdict {
    if good { Verdict::Good } else { otherwise }
}

fn release(facts: &Facts) -> Check {
    let (name, number) = &facts.release;
    let verdict = good_if(*number >= OLDEST, Verdict::Warn);
    mend(check("FreeBSD", verdict, name), "freebsd-update to 14 or later: 13.2 is the oldest tried")
}

fn root(facts: &Facts) -> Check {
    if facts.jailed {
        let found = "this is a jail itself, and what a jail may do is not enough";
        return mend(check("root", Verdict::Bad, found), "run coppice on the host");
    }
    let verdict = good_if(facts.uid == 0, Verdict::Bad);
    mend(check("root", verdict, format!("uid {}", facts.uid)), "run coppice as root")
}

/// Limits and usage of jails come from racct(4), which is compiled in but off by default.
fn racct(facts: &Facts) -> Check {
    let what = "resource limits";
    let generic = "boot a kernel with options RACCT and RCTL, as GENERIC is";
    match facts.racct {
        Some(true) if facts.rctl => check(what, Verdict::Good, "racct and rctl are on"),
        Some(false) if facts.rctl => mend(
            check(what, Verdict::Bad, "racct is off"),
            "echo kern.racct.enable=1 >> /boot/loader.conf && shutdown -r now",
        ),
        Some(_) => mend(check(what, Verdict::Bad, "no RCTL in the kernel"), generic),
        None => mend(check(what, Verdict::Bad, "no RACCT in the kernel"), generic),
    }
}

fn vimage(facts: &Facts) -> Check {
    let what = "network stacks";
    if facts.vimage {
        return check(what, Verdict::Good, "VIMAGE");
    }
    let found = "no VIMAGE in the kernel: nat is not there, and a sandbox without network has the \
                 host's stack from an address of 127/8 of its own, so it reaches what the host \
                 and other sandboxes serve";
    mend(check(what, Verdict::Warn, found), "boot a kernel with options VIMAGE, as GENERIC is")
}

fn module(module: &Module, securelevel: i64) -> Check {
    let name = module.name;
    let (verdict, found) = match module.state {
        ModuleState::Loaded => (Verdict::Good, "loaded".to_owned()),
        ModuleState::Loadable if securelevel > 0 => {
            (Verdict::Bad, format!("not loaded, and securelevel {securelevel} lets nobody load it"))
        }
        ModuleState::Loadable => (Verdict::Good, "loaded when it is needed".to_owned()),
        ModuleState::Missing => (Verdict::Bad, "neither loaded nor in kern.module_path".to_owned()),
    };
    let how = match module.state {
        ModuleState::Missing => format!("install {name}.ko of this kernel, or build it in"),
        _ => format!("echo '{name}_load=\"YES\"' >> /boot/loader.conf && shutdown -r now"),
    };
    mend(check(name, verdict, found), how)
}

fn ruleset(facts: &Facts) -> Check {
    let what = "devfs ruleset";
    match &facts.ruleset {
        Ok(true) => check(what, Verdict::Good, "there"),
        Ok(false) => check(what, Verdict::Good, "not there; serve makes it"),
        Err(error) => mend(check(what, Verdict::Bad, error), "run coppice as root, on the host"),
    }
}

fn zfs(facts: &Facts) -> Check {
    let what = "ZFS";
    match &facts.data {
        Ok((kind, from)) if kind == "zfs" => {
            check(what, Verdict::Good, format!("roots are clones, below {from}"))
        }
        Ok((kind, _)) => {
            let found = format!(
                "the data directory is on {kind}: roots are thin, what came with the template \
                 is read-only in them"
            );
            let how = format!("zfs create -o mountpoint={} zroot/coppice", facts.data_dir);
            mend(check(what, Verdict::Warn, found), how)
        }
        Err(error) => mend(check(what, Verdict::Bad, error), "make the data directory"),
    }
}

fn filter(facts: &Facts) -> Check {
    let what = "pf";
    if !facts.vimage {
        return check(what, Verdict::Good, "not needed without network stacks");
    }
    let Filter { has_file, enabled, lacking, before_ours, .. } = &facts.filter;
    let lines = ANCHORS.map(|line| format!("{line}\\n")).concat();
    let found = match enabled {
        Some(true) if lacking.is_empty() && before_ours.is_none() => {
            return check(what, Verdict::Good, "on, and leads to ours");
        }
        Some(true) if lacking.is_empty() => {
            let rule = before_ours.as_deref().unwrap_or_default();
            format!("on, but one of its rules decides before ours are asked: {rule}")
        }
        Some(true) => format!("on, but its rules lack {}", lacking.join(" and ")),
        Some(false) => "off: no sandbox can have network nat".to_owned(),
        None => "cannot be asked, as it is not loaded: no sandbox can have network nat".to_owned(),
    };
    let (on, again) = ("sysrc pf_enable=YES && service pf start", "service pf reload");
    let start = if *enabled == Some(true) { again } else { on };
    let how = if !has_file {
        format!("printf '{lines}' > /etc/pf.conf && {start}")
    } else {
        // Before all others, as one of those that is `quick` would decide for ours.
        format!(
            "add to /etc/pf.conf, unless it has them, `{}` and `{}`, right before its first rule \
             that passes or blocks; then {start}",
            ANCHORS[0], ANCHORS[1]
        )
    };
    // All but those with network nat can be made.
    mend(check(what, Verdict::Warn, found), how)
}

/// Turned on by `serve` itself.
fn forwarding(facts: &Facts) -> Check {
    let what = "forwarding";
    match facts.forwarding {
        Some(true) => check(what, Verdict::Good, "on"),
        Some(false) => check(what, Verdict::Good, "off; serve turns it on"),
        None => mend(
            check(what, Verdict::Warn, "unknown"),
            "sysrc gateway_enable=YES && service routing restart",
        ),
    }
}

fn ceilings(facts: &Facts, planned: u64) -> Vec<Check> {
    let Ceilings { maxproc, maxprocperuid, maxfiles, nofile } = &facts.ceilings;
    let processes = planned * PROCESSES_EACH + 1024;
    let least = |what, ceiling: &Option<u64>, wanted: u64, how: String| {
        let Some(ceiling) = *ceiling else {
            return mend(check(what, Verdict::Warn, "unknown"), how);
        };
        let verdict = good_if(ceiling >= wanted, Verdict::Warn);
        let found = format!("{ceiling}, {wanted} wanted for {planned} sandboxes");
        mend(check(what, verdict, found), how)
    };
    let loader = |name: &str, wanted| {
        format!("echo {name}={wanted} >> /boot/loader.conf && shutdown -r now")
    };
    let sysctl = |name: &str, wanted| {
        format!("sysctl {name}={wanted} && echo {name}={wanted} >> /etc/sysctl.conf")
    };
    let files = planned * FILES_EACH + 8192;
    let own = planned * 16 + 1024;
    let states = planned * STATES_EACH;
    let mut checks = vec![
        least("maxproc", maxproc, processes, loader("kern.maxproc", processes)),
        least("maxprocperuid", maxprocperuid, processes, sysctl("kern.maxprocperuid", processes)),
        least("maxfiles", maxfiles, files, sysctl("kern.maxfiles", files)),
        least("nofile", nofile, own, format!("ulimit -n {own} before coppice serve")),
    ];
    if facts.filter.enabled.is_some() {
        let how =
            format!("set limit states {states} at the top of /etc/pf.conf; service pf reload");
        checks.push(least("pf states", &facts.filter.states, states, how));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        let plenty = Some(1 << 20);
        Facts {
            uid: 0,
            jailed: false,
            release: ("14.3-RELEASE".into(), 1_403_000),
            racct: Some(true),
            rctl: true,
            vimage: true,
            modules: vec![Module { name: "nullfs", state: ModuleState::Loaded }],
            securelevel: -1,
            ruleset: Ok(true),
            data: Ok(("zfs".into(), "zroot/coppice".into())),
            data_dir: "/var/coppice".into(),
            filter: Filter {
                has_file: true,
                enabled: Some(true),
                lacking: Vec::new(),
                before_ours: None,
                states: plenty,
            },
            forwarding: Some(true),
            ceilings: Ceilings {
                maxproc: plenty,
                maxprocperuid: plenty,
                maxfiles: plenty,
                nofile: plenty,
            },
        }
    }

    #[test]
    fn a_rule_that_decides_before_ours_is_named() {
        let rule = "pass in quick on em0 all";
        let change = |facts: &mut Facts| facts.filter.before_ours = Some(rule.to_owned());
        let (what, verdict, found, mend) = bad(change);
        assert_eq!((what, verdict), ("pf", Verdict::Warn));
        assert!(found.ends_with(rule) && mend.contains("right before its first rule"), "{mend}");
    }

    /// The one check that is not good when `change` is made, and how it is mended.
    fn bad(change: impl FnOnce(&mut Facts)) -> (&'static str, Verdict, String, String) {
        let mut facts = good();
        change(&mut facts);
        let mut found: Vec<Check> = checks(&facts, 200);
        found.retain(|check| check.verdict != Verdict::Good);
        assert_eq!(found.len(), 1, "{found:?}");
        let check = found.remove(0);
        (check.what, check.verdict, check.found, check.mend.expect("a line that mends it"))
    }

    #[test]
    fn a_good_host_has_nothing_to_mend() {
        for check in checks(&good(), 200) {
            assert_eq!((check.verdict, check.mend.clone()), (Verdict::Good, None), "{check:?}");
        }
    }

    #[test]
    fn what_is_missing_comes_with_the_line_that_mends_it() {
        let (what, verdict, _, mend) = bad(|facts| facts.racct = Some(false));
        assert_eq!((what, verdict), ("resource limits", Verdict::Bad));
        assert_eq!(mend, "echo kern.racct.enable=1 >> /boot/loader.conf && shutdown -r now");
        assert!(bad(|facts| facts.racct = None).3.contains("RACCT"));
        assert!(bad(|facts| facts.rctl = false).2.contains("RCTL"));
        assert_eq!(bad(|facts| facts.uid = 1001).0, "root");
        assert!(bad(|facts| facts.jailed = true).3.contains("on the host"));
        assert_eq!(bad(|facts| facts.release = ("12.4".into(), 1_204_000)).1, Verdict::Warn);
        assert_eq!(bad(|facts| facts.ruleset = Err("open /dev: EPERM".into())).1, Verdict::Bad);
    }

    #[test]
    fn without_vimage_sandboxes_can_be_made_but_it_is_said_what_is_lost() {
        let (_, verdict, found, _) = bad(|facts| {
            facts.vimage = false;
            facts.filter.enabled = None;
        });
        assert_eq!(verdict, Verdict::Warn);
        assert!(found.contains("nat is not there") && found.contains("reaches what the host"));
    }

    #[test]
    fn a_module_that_cannot_be_loaded_later_is_to_be_loaded_at_boot() {
        let set = |state, securelevel| {
            move |facts: &mut Facts| {
                facts.modules[0].state = state;
                facts.securelevel = securelevel;
            }
        };
        let mut facts = good();
        set(ModuleState::Loadable, 0)(&mut facts);
        assert!(checks(&facts, 1).iter().all(|check| check.verdict == Verdict::Good));
        let (what, _, _, mend) = bad(set(ModuleState::Loadable, 1));
        assert_eq!(what, "nullfs");
        assert!(mend.starts_with("echo 'nullfs_load=\"YES\"' >> /boot/loader.conf"), "{mend}");
        assert!(bad(set(ModuleState::Missing, -1)).3.contains("nullfs.ko"));
    }

    #[test]
    fn pf_is_mended_by_what_it_lacks() {
        let (_, _, _, mend) = bad(|facts| {
            facts.filter = Filter {
                has_file: false,
                enabled: None,
                lacking: Vec::new(),
                before_ours: None,
                states: None,
            };
        });
        let lines = r#"printf 'nat-anchor "coppice/*"\nanchor "coppice/*"\n' > /etc/pf.conf"#;
        assert_eq!(mend, format!("{lines} && sysrc pf_enable=YES && service pf start"));
        let (_, _, found, mend) = bad(|facts| facts.filter.lacking = vec![ANCHORS[1]]);
        assert_eq!(found, "on, but its rules lack anchor \"coppice/*\"");
        assert!(mend.ends_with("then service pf reload"), "{mend}");
        let (_, _, _, mend) = bad(|facts| facts.filter.enabled = Some(false));
        assert!(mend.ends_with("service pf start"), "{mend}");
    }

    #[test]
    fn a_data_directory_elsewhere_than_on_zfs_works_with_thin_roots() {
        let (_, verdict, found, mend) =
            bad(|facts| facts.data = Ok(("ufs".into(), "/dev/ada0p2".into())));
        assert_eq!(verdict, Verdict::Warn);
        assert!(found.contains("on ufs: roots are thin"), "{found}");
        assert_eq!(mend, "zfs create -o mountpoint=/var/coppice zroot/coppice");
    }

    #[test]
    fn ceilings_grow_with_what_is_planned() {
        let (what, verdict, found, mend) = bad(|facts| facts.ceilings.maxproc = Some(13_000));
        assert_eq!((what, verdict), ("maxproc", Verdict::Warn));
        assert_eq!(found, "13000, 13824 wanted for 200 sandboxes");
        assert_eq!(mend, "echo kern.maxproc=13824 >> /boot/loader.conf && shutdown -r now");
        let mut facts = good();
        facts.ceilings.maxproc = Some(13_000);
        assert!(checks(&facts, 100).iter().all(|check| check.verdict == Verdict::Good));
        let (what, _, _, mend) = bad(|facts| facts.filter.states = Some(10_000));
        assert_eq!(what, "pf states");
        assert!(mend.starts_with("set limit states 51200"), "{mend}");
    }
}
