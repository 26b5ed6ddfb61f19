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
    steps.push(Step::Jail(jail(id, &root, decided.ruleset, decided.stack)));
    steps.push(Step::Cpus(decided.cpus));
    steps.push(Step::Network(spec.network));
    steps.push(Step::Envd);
    Ok(Plan(steps))
}

/// The parameters of jail(8). Of `allow` only what 13.2 knows is named: what came later is off
/// anyway (`JAIL_DEFAULT_ALLOW` in sys/kern/kern_jail.c).
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

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fmt::{self, Display},
        sync::Arc,
    };

    use super::{
        super::{
            furniture::Kind,
            holding::{self, Acts, Holding},
        },
        *,
    };
    use crate::{backend::Limits, sandbox::testing, template::Template};

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn spec(network: NetworkMode) -> CellSpec {
        let template = Template { id: "base".into(), ..testing::template() };
        CellSpec {
            id: ID.parse().unwrap(),
            template: Arc::new(template),
            limits: Limits { cpus: 2, memory_bytes: 1 << 30, processes: 1000 },
            network,
            init: Default::default(),
        }
    }

    fn planned(root: Root, network: NetworkMode, stack: Stack) -> Plan {
        let decided = Decided {
            directory: Path::new("/data/sandboxes/it"),
            root,
            stack,
            ruleset: 100,
            cpus: vec![2, 3],
            dns: &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        };
        plan(&spec(network), decided).unwrap()
    }

    fn clone() -> Root {
        Root::Clone { layer: "/data/templates/layers/x".into(), dataset: "tank/coppice/it".into() }
    }

    fn thin() -> Root {
        let directory = |name: &str, mode, empty| Entry {
            name: name.into(),
            kind: Kind::Directory { mode, empty },
        };
        let other = |name: &str| Entry { name: name.into(), kind: Kind::Other };
        let entries = vec![
            other(".profile"),
            directory("bin", 0o755, false),
            directory("dev", 0o555, true),
            directory("etc", 0o755, false),
            directory("home", 0o755, false),
            directory("mnt", 0o755, true),
            directory("root", 0o700, false),
            other("sys"),
            directory("tmp", 0o1777, false),
            directory("usr", 0o755, false),
            directory("var", 0o755, false),
        ];
        Root::Thin { layer: "/data/templates/layers/x".into(), entries }
    }

    impl Step {
        /// On what list it is undone. `None` for what is in the sandbox's directory and goes with it.
        fn holding(&self) -> Option<Holding> {
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

    impl Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Directory { path, mode } => write!(f, "mkdir {mode:o} {}", path.display()),
                Self::Place { path, mode } => write!(f, "place {mode:o} {}", path.display()),
                Self::Copy { from, to } => {
                    write!(f, "copy {} {}", from.display(), to.display())
                }
                Self::Write { path, text } => write!(f, "write {} {text:?}", path.display()),
                Self::Clone { layer, id } => write!(f, "clone {} {id}", layer.display()),
                Self::Mount(mount) => write!(f, "mount {mount}"),
                Self::Rule(rule) => write!(f, "rule {rule}"),
                Self::Jail(params) => write!(f, "jail {params}"),
                Self::Cpus(cpus) => write!(f, "cpus {cpus:?}"),
                Self::Network(mode) => write!(f, "network {mode:?}"),
                Self::Envd => write!(f, "envd"),
            }
        }
    }

    fn text(plan: &Plan) -> String {
        let line = |step: &Step| match step.holding() {
            Some(holding) => format!("{step}  <- {holding:?}\n"),
            None => format!("{step}\n"),
        };
        plan.steps().iter().map(line).collect()
    }

    const CLONE: &str = include_str!("plan_clone.txt");
    const THIN: &str = include_str!("plan_thin.txt");

    #[test]
    fn the_plan_of_a_clone_is_this() {
        assert_eq!(text(&planned(clone(), NetworkMode::Nat, Stack::Own)), CLONE);
    }

    #[test]
    fn the_plan_of_a_thin_root_is_this() {
        assert_eq!(text(&planned(thin(), NetworkMode::None, Stack::Own)), THIN);
    }

    #[test]
    fn each_stack_has_its_parameters() {
        let check = |stack, expect: &str| {
            let plan = planned(clone(), NetworkMode::None, stack);
            let jail = plan.steps().iter().find(|step| matches!(step, Step::Jail(_))).unwrap();
            assert!(jail.to_string().ends_with(&format!(" allow.nomlock {expect}")), "{jail}");
        };
        check(Stack::Own, "vnet=1");
        check(Stack::Host, "ip4=2 ip6=2");
        check(Stack::Loopback([127, 9, 0, 1].into()), "ip4=1 ip4.addr=127.9.0.1 ip6=0");
    }

    /// A kernel that has what was made until it is let go, and fails when told to.
    #[derive(Default)]
    struct Kernel {
        has: BTreeSet<Holding>,
        acts: usize,
        fails_at: Option<usize>,
        fails_after_half: bool,
        stuck: BTreeSet<Holding>,
        released: Vec<Holding>,
    }

    impl Acts for Kernel {
        fn act(&mut self, step: &Step) -> Result<(), Error> {
            let fails = Some(self.acts) == self.fails_at;
            self.acts += 1;
            // In a jail that is not there nothing is set; on nothing nothing is mounted.
            match step {
                Step::Cpus(_) | Step::Network(_) | Step::Envd => {
                    assert!(self.has.contains(&Holding::Jail), "{step}");
                }
                Step::Jail(_) => assert!(self.has.contains(&Holding::Rules), "{step}"),
                _ => {}
            }
            if !fails || self.fails_after_half {
                self.has.extend(step.holding());
            }
            if fails { Err(Error::Unsupported(step.to_string())) } else { Ok(()) }
        }

        fn release(&mut self, holding: Holding) -> Result<(), Error> {
            if self.stuck.contains(&holding) {
                return Err(Error::Unsupported(format!("{holding:?}")));
            }
            match holding {
                Holding::Clone => assert!(!self.has.contains(&Holding::Mounts)),
                Holding::Mounts | Holding::Rules => assert!(!self.has.contains(&Holding::Jail)),
                Holding::Jail | Holding::Network => {}
            }
            self.has.remove(&holding);
            self.released.push(holding);
            Ok(())
        }
    }

    #[test]
    fn whichever_step_fails_nothing_is_left() {
        for root in [clone(), thin()] {
            let plan = planned(root, NetworkMode::Nat, Stack::Own);
            for fails_at in 0..plan.steps().len() {
                for fails_after_half in [false, true] {
                    let mut kernel =
                        Kernel { fails_at: Some(fails_at), fails_after_half, ..Kernel::default() };
                    let (error, undoing) = holding::make(&plan, &mut kernel).unwrap_err();
                    assert_eq!(error.to_string(), plan.steps()[fails_at].to_string());
                    undoing.unwrap();
                    assert_eq!(kernel.acts, fails_at + 1, "nothing is done after a failure");
                    assert!(kernel.has.is_empty(), "step {fails_at} leaves {:?}", kernel.has);
                }
            }
            let mut kernel = Kernel::default();
            assert!(holding::make(&plan, &mut kernel).is_ok());
            assert!(kernel.released.is_empty() && !kernel.has.is_empty());
            holding::release(&mut kernel).unwrap();
            assert!(kernel.has.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_let_go_keeps_only_what_depends_on_it() {
        let check = |stuck: Holding, released: &[Holding]| {
            let mut kernel = Kernel { stuck: [stuck].into(), ..Kernel::default() };
            let error = holding::release(&mut kernel).unwrap_err();
            assert_eq!(
                (error.to_string(), kernel.released),
                (format!("{stuck:?}"), released.to_vec())
            );
        };
        use Holding::{Clone, Jail, Mounts, Network, Rules};
        check(Jail, &[]);
        check(Network, &[Jail, Mounts, Clone, Rules]);
        check(Mounts, &[Jail, Network, Rules]);
        check(Clone, &[Jail, Network, Mounts, Rules]);
        check(Rules, &[Jail, Network, Mounts, Clone]);
    }
}
