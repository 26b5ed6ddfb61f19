//! Whole plans, and the undoing of each.

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
use crate::{limits::Limits, network::Cidr, sandbox::testing, template::Template};

const ID: &str = "0123456789abcdef0123456789abcdef";

fn spec(network: NetworkMode) -> CellSpec {
    let template = Template { id: "base".into(), ..testing::template() };
    CellSpec {
        filter: Default::default(),
        id: ID.parse().unwrap(),
        template: Arc::new(template),
        limits: Limits { cpus: 2, memory_bytes: 1 << 30, processes: 1000, ..Limits::default() },
        network,
        init: Default::default(),
        layer: Layer::Fresh,
    }
}

fn planned(root: Root, network: NetworkMode, stack: Stack) -> Plan {
    planned_with(JailOptions::default(), root, network, stack)
}

fn planned_with(options: JailOptions, root: Root, network: NetworkMode, stack: Stack) -> Plan {
    plan_of(&spec(network), options, root, stack)
}

fn plan_of(spec: &CellSpec, options: JailOptions, root: Root, stack: Stack) -> Plan {
    let decided = Decided {
        directory: Path::new("/data/sandboxes/it"),
        root,
        stack,
        ruleset: 100,
        cpus: vec![2, 3],
        dns: &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        options,
    };
    plan(spec, decided).unwrap()
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
    Root::Thin { layer: "/data/templates/layers/x".into(), entries, over: None }
}

impl Step {
    /// On what list it is undone. `None` for what is in the sandbox's directory and goes with it.
    fn holding(&self) -> Option<Holding> {
        match self {
            Self::Directory { .. }
            | Self::Place { .. }
            | Self::Copy { .. }
            | Self::CopyInto { .. }
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
            Self::CopyInto { from, to } => {
                write!(f, "copy into {} {}", from.display(), to.display())
            }
            Self::Write { path, text } => write!(f, "write {} {text:?}", path.display()),
            Self::Clone { layer, id, disk: None } => {
                write!(f, "clone {} {id}", layer.display())
            }
            Self::Clone { layer, id, disk: Some(most) } => {
                write!(f, "clone {} {id} with {most}", layer.display())
            }
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

const CLONE: &str = include_str!("clone.txt");
const THIN: &str = include_str!("thin.txt");

#[test]
fn the_plan_of_a_clone_is_this() {
    assert_eq!(text(&planned(clone(), NetworkMode::Nat, Stack::Own)), CLONE);
}

#[test]
fn the_plan_of_a_thin_root_is_this() {
    assert_eq!(text(&planned(thin(), NetworkMode::None, Stack::Own)), THIN);
}

#[test]
fn what_was_asked_for_comes_to_the_plan() {
    let options = JailOptions {
        procfs: true,
        vmemory_bytes: Some(8 << 30),
        read_bps: Some(100 << 20),
        write_bps: Some(50 << 20),
        ..JailOptions::default()
    };
    for root in [clone(), thin()] {
        let plain = text(&planned(root.clone(), NetworkMode::None, Stack::Own));
        let asked = text(&planned_with(options, root, NetworkMode::None, Stack::Own));
        let more: Vec<&str> = asked.lines().filter(|line| !plain.contains(line)).collect();
        let rule = format!("rule jail:coppice-{ID}");
        assert_eq!(
            more,
            [
                "place 555 /data/sandboxes/it/root/proc",
                "mount procfs /data/sandboxes/it/root/proc  <- Mounts",
                &format!("{rule}:vmemoryuse:deny=8724152320  <- Rules"),
                &format!("{rule}:readbps:throttle=104857600  <- Rules"),
                &format!("{rule}:writebps:throttle=52428800  <- Rules"),
            ]
        );
        assert!(plain.lines().all(|line| asked.contains(line)));
    }
}

#[test]
fn what_a_sandbox_is_bounded_by_beside_the_rest_are_rules_of_its_own() {
    let options = JailOptions { read_bps: Some(1 << 20), ..JailOptions::default() };
    let mut spec = spec(NetworkMode::None);
    let plain = text(&plan_of(&spec, options, clone(), Stack::Own));
    spec.limits.open_files = Some(4096);
    spec.limits.disk_read = Some(5 << 20);
    spec.limits.disk_write = Some(2 << 20);
    let bounded = text(&plan_of(&spec, options, clone(), Stack::Own));
    let more: Vec<&str> = bounded.lines().filter(|line| !plain.contains(line)).collect();
    let rule = format!("rule jail:coppice-{ID}");
    assert_eq!(
        more,
        [
            &format!("{rule}:openfiles:deny=4096  <- Rules"),
            &format!("{rule}:writebps:throttle=2097152  <- Rules"),
        ]
    );
    // What holds for all of the host's is less.
    assert!(bounded.contains(":readbps:throttle=1048576  <- Rules"), "{bounded}");
}

/// Up to the devices, from where on all roots are alike.
fn root_of(spec: &CellSpec, options: JailOptions, root: Root) -> String {
    let text = text(&plan_of(spec, options, root, Stack::Own));
    let end = text.find("place 555 /data/sandboxes/it/root/dev\n").unwrap();
    text[..end].replace("/data/sandboxes/it/root", "~").replace("/data/templates/layers", "L")
}

fn identity() -> String {
    let text = root_of(&spec(NetworkMode::Nat), JailOptions::default(), clone());
    text[text.find("place 755 ~/etc").unwrap()..].to_owned()
}

#[test]
fn a_sandbox_that_goes_on_has_its_root_as_it_was() {
    let kept = CellSpec { layer: Layer::Kept, ..spec(NetworkMode::Nat) };
    let tmpfs = JailOptions { tmpfs: true, ..JailOptions::default() };
    assert_eq!(
        root_of(&kept, JailOptions::default(), clone()),
        "place 755 ~\nmount zfs -o from=tank/coppice/it ~  <- Mounts\n"
    );
    for options in [JailOptions::default(), tmpfs] {
        assert_eq!(
            root_of(&kept, options, thin()),
            "place 755 ~\n\
             place 755 ~/bin\nmount nullfs -o target=L/x/bin -o ro ~/bin  <- Mounts\n\
             place 755 ~/usr\nmount nullfs -o target=L/x/usr -o ro ~/usr  <- Mounts\n"
        );
    }
}

#[test]
fn a_sandbox_made_of_a_copy_of_files_has_those_and_shares_the_rest() {
    let Root::Thin { layer, entries, .. } = thin() else { unreachable!() };
    let root = Root::Thin { layer, entries, over: Some("/data/copy".into()) };
    let expected = format!(
        "mkdir 755 ~\ncopy into /data/copy ~\n\
         place 755 ~/bin\nmount nullfs -o target=L/x/bin -o ro ~/bin  <- Mounts\n\
         place 755 ~/usr\nmount nullfs -o target=L/x/usr -o ro ~/usr  <- Mounts\n{}",
        identity()
    );
    assert_eq!(root_of(&spec(NetworkMode::Nat), JailOptions::default(), root), expected);
}

#[test]
fn what_a_sandbox_may_write_bounds_a_clone_and_a_root_in_memory() {
    let mut spec = spec(NetworkMode::Nat);
    let tmpfs = JailOptions { tmpfs: true, ..JailOptions::default() };
    let second = |root: &str| root.lines().nth(1).unwrap().to_owned();
    assert_eq!(
        second(&root_of(&spec, tmpfs, thin())),
        "mount tmpfs -o size=1073741824 ~  <- Mounts",
        "as much as it has memory"
    );
    spec.limits.disk_bytes = Some(5 << 20);
    assert_eq!(second(&root_of(&spec, tmpfs, thin())), "mount tmpfs -o size=5242880 ~  <- Mounts");
    for options in [JailOptions::default(), tmpfs] {
        assert_eq!(
            second(&root_of(&spec, options, clone())),
            format!("clone L/x {ID} with 5242880  <- Clone")
        );
    }
    assert!(!root_of(&spec, JailOptions::default(), thin()).contains("tmpfs"));
}

#[test]
fn each_stack_has_its_parameters() {
    let check = |stack, expect: &str| {
        let plan = planned(clone(), NetworkMode::None, stack);
        let jail = plan.steps().iter().find(|step| matches!(step, Step::Jail(_))).unwrap();
        assert!(jail.to_string().ends_with(&format!(" allow.noread_msgbuf {expect}")), "{jail}");
    };
    check(Stack::Own, "vnet=1");
    check(Stack::Host, "ip4=2 ip6=2");
    check(Stack::Loopback([127, 9, 0, 1].into()), "ip4=1 ip4.addr=127.9.0.1 ip6=0");
}

#[test]
fn what_has_the_host_s_stack_is_never_said_to_be_closed() {
    let closed = Filter { denied: vec![Cidr::ALL], ..Filter::default() };
    let open = Filter::default();
    for (has_stack, has_address, when_closed, when_open) in [
        (true, false, Unlinked::Stays, Unlinked::Links),
        (true, true, Unlinked::Stays, Unlinked::Links),
        (false, true, Unlinked::Stays, Unlinked::IsTheHosts),
        (false, false, Unlinked::IsTheHosts, Unlinked::IsTheHosts),
    ] {
        assert_eq!(unlinked(has_stack, has_address, &closed), when_closed);
        assert_eq!(unlinked(has_stack, has_address, &open), when_open);
    }
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
        assert_eq!((error.to_string(), kernel.released), (format!("{stuck:?}"), released.to_vec()));
    };
    use Holding::{Clone, Jail, Mounts, Network, Rules};
    check(Jail, &[]);
    check(Network, &[Jail, Mounts, Clone, Rules]);
    check(Mounts, &[Jail, Network, Rules]);
    check(Clone, &[Jail, Network, Mounts, Rules]);
    check(Rules, &[Jail, Network, Mounts, Clone]);
}
