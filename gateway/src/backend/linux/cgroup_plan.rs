//! Which cgroup hierarchy does what on this host. Pure.
//!
//! Controllers come from v2 where it has them, else from v1; v2 without any controller still
//! gives CPU time and `cgroup.kill`.

use std::path::{Path, PathBuf};

use super::mountinfo::Mount;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
    /// What is read from and written to disks; to be done without.
    Io,
}

impl Controller {
    /// Without which there are no sandboxes.
    pub(super) const NEEDED: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Io => "io",
        }
    }

    fn name_in_v1(self) -> &'static str {
        if self == Self::Io { "blkio" } else { self.name() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy that sandboxes get a directory in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// v2 first.
    pub(super) hierarchies: Vec<Hierarchy>,
    /// v1's `cpuacct`, where there is no v2 to read CPU time from.
    pub(super) cpuacct: Option<PathBuf>,
}

impl Plan {
    /// # Errors
    /// What the host lacks.
    pub(super) fn new(mounts: &[Mount], v2_controllers: &str) -> Result<Self, String> {
        let v2 = v2_mount(mounts);
        let mut hierarchies: Vec<Hierarchy> = v2
            .map(|mount| Hierarchy {
                mount: mount.to_owned(),
                version: Version::V2,
                controllers: Vec::new(),
            })
            .into_iter()
            .collect();
        for controller in Controller::NEEDED.into_iter().chain([Controller::Io]) {
            let name = controller.name();
            if v2.is_some() && v2_controllers.split_whitespace().any(|has| has == name) {
                hierarchies[0].controllers.push(controller);
                continue;
            }
            match v1_mount(mounts, controller.name_in_v1()) {
                Some(mount) => join(&mut hierarchies, mount).controllers.push(controller),
                None if controller == Controller::Io => {}
                None => return Err(format!("no cgroup hierarchy with the {name} controller")),
            }
        }
        let mut cpuacct = None;
        if v2.is_none() {
            let mount = v1_mount(mounts, "cpuacct")
                .ok_or("no cgroup hierarchy that tells CPU time (cpuacct)")?;
            join(&mut hierarchies, mount);
            cpuacct = Some(mount.to_owned());
        }
        Ok(Self { hierarchies, cpuacct })
    }

    pub(super) fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.first().filter(|first| first.version == Version::V2)
    }

    pub(super) fn of(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|has| has.controllers.contains(&controller))
    }

    /// Whether a hierarchy is about disks alone: bounded for some sandboxes, counted for all.
    pub(super) fn is_for_disks(hierarchy: &Hierarchy) -> bool {
        hierarchy.version == Version::V1 && hierarchy.controllers == [Controller::Io]
    }

    /// For a human: `memory, pids and cpu on v1; cgroup.kill on v2`.
    pub(super) fn describe(&self) -> String {
        let version = |controller| match self.of(controller).map(|has| has.version) {
            Some(Version::V2) => "v2",
            _ => "v1",
        };
        let io = Some(Controller::Io).filter(|io| self.of(*io).is_some());
        let parts: Vec<String> = Controller::NEEDED
            .into_iter()
            .chain(io)
            .map(|controller| format!("{} on {}", controller.name(), version(controller)))
            .collect();
        parts.join(", ")
    }
}

pub(super) fn v2_mount(mounts: &[Mount]) -> Option<&Path> {
    mounts.iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.point.as_path())
}

fn v1_mount<'a>(mounts: &'a [Mount], controller: &str) -> Option<&'a Path> {
    mounts
        .iter()
        .find(|mount| mount.kind == "cgroup" && mount.options.iter().any(|has| has == controller))
        .map(|mount| mount.point.as_path())
}

fn join<'a>(hierarchies: &'a mut Vec<Hierarchy>, mount: &Path) -> &'a mut Hierarchy {
    let at = hierarchies.iter().position(|has| has.mount == mount).unwrap_or_else(|| {
        hierarchies.push(Hierarchy {
            mount: mount.to_owned(),
            version: Version::V1,
            controllers: Vec::new(),
        });
        hierarchies.len() - 1
    });
    &mut hierarchies[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, kind: &str, options: &str) -> Mount {
        Mount {
            point: point.into(),
            kind: kind.into(),
            source: "none".into(),
            options: options.split(',').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn a_unified_host_uses_one_hierarchy() {
        let mounts = [mount("/sys/fs/cgroup", "cgroup2", "rw")];
        let plan = Plan::new(&mounts, "cpuset cpu io memory pids\n").unwrap();
        assert_eq!(plan.hierarchies.len(), 1);
        assert_eq!(plan.hierarchies[0].controllers.len(), 4);
        assert_eq!(plan.describe(), "memory on v2, pids on v2, cpu on v2, io on v2");
        assert!(!Plan::is_for_disks(&plan.hierarchies[0]));
    }

    #[test]
    fn a_hybrid_host_takes_each_controller_from_where_it_is() {
        let mounts = [
            mount("/cg/memory", "cgroup", "rw,memory"),
            mount("/cg/cpu", "cgroup", "rw,cpu,cpuacct"),
            mount("/cg/blkio", "cgroup", "rw,blkio"),
            mount("/cg/unified", "cgroup2", "rw"),
        ];
        let plan = Plan::new(&mounts, "hugetlb pids").unwrap();
        assert_eq!(plan.v2().unwrap().controllers, [Controller::Pids]);
        assert_eq!(plan.of(Controller::Memory).unwrap().mount, Path::new("/cg/memory"));
        assert_eq!(plan.hierarchies.len(), 4);
        assert!(Plan::is_for_disks(plan.of(Controller::Io).unwrap()));
        assert_eq!(plan.cpuacct, None);
    }

    #[test]
    fn a_v1_host_reads_cpu_time_from_cpuacct() {
        let mounts = [
            mount("/cg/memory", "cgroup", "memory"),
            mount("/cg/pids", "cgroup", "pids"),
            mount("/cg/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
        ];
        let plan = Plan::new(&mounts, "").unwrap();
        assert_eq!(plan.hierarchies.len(), 3);
        assert!(plan.v2().is_none() && plan.of(Controller::Io).is_none());
        assert_eq!(plan.cpuacct.as_deref(), Some(Path::new("/cg/cpu,cpuacct")));
    }

    #[test]
    fn a_missing_controller_is_named() {
        let mounts = [mount("/cg/memory", "cgroup", "memory")];
        assert!(Plan::new(&mounts, "").unwrap_err().contains("pids"));
    }
}
