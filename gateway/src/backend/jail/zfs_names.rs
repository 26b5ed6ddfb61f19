//! The datasets of one data directory: what they are called, the command lines of zfs(8) that make
//! and destroy them, and what it prints. Runs nothing.
//!
//! ```text
//! <dataset of the data directory>/coppice-<tag>
//!     layers/<digest>           a template's layer, as it is on disk; or the copy of a sandbox
//!     layers/<digest>@ready     what is cloned; there once the layer is complete
//!     layers/<digest>@at-<n>    the moment of a sandbox that a copy is of
//!     clones/<leaf>             a root: a sandbox's, or ready and nobody's
//! ```
//!
//! A copy of a sandbox is a clone of a snapshot of its root, and promoted: so it is the copy that
//! has the snapshot, and the sandbox is a clone of that. Whichever of the two goes first, goes.
//!
//! All have `mountpoint=legacy`: nothing but the gateway mounts them, and zfs(8) not at boot.

use std::{collections::BTreeMap, path::Path};

use super::pf::Tag;
use crate::sandbox::SandboxId;

const ZFS: &str = "/sbin/zfs";
const ZPOOL: &str = "/sbin/zpool";
const READY: &str = "@ready";

/// The arguments of one program, its name first.
pub(super) type Arguments = Vec<String>;

/// What a layer's dataset is called: the digest that the layer's directory is named by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Layer(String);

impl Layer {
    /// Directories that are named otherwise are told apart by their path.
    pub(super) fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let hash = || blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex().to_string();
        Self::named(name).unwrap_or_else(|| Self(hash()))
    }

    /// Whose name nobody can guess.
    pub(super) fn random() -> Self {
        Self(format!("{}{}", SandboxId::random(), SandboxId::random()))
    }

    /// As [`Layer::as_str`] has it.
    pub(super) fn named(name: &str) -> Option<Self> {
        let is_one = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then(|| Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    home: String,
}

impl Names {
    pub(super) fn new(dataset: &str, tag: &Tag) -> Self {
        Self { home: format!("{dataset}/coppice-{}", tag.as_str()) }
    }

    pub(super) fn layer(&self, layer: &Layer) -> String {
        format!("{}/layers/{}", self.home, layer.0)
    }

    pub(super) fn clone(&self, leaf: &str) -> String {
        format!("{}/clones/{leaf}", self.home)
    }

    /// What all others are below, one after the other; each fails when it is there.
    pub(super) fn create_home(&self) -> Vec<Arguments> {
        let home = zfs(&["create", "-o", "mountpoint=legacy", "-o", "atime=off", &self.home]);
        let below = ["layers", "clones"];
        let below = below.map(|name| zfs(&["create", &format!("{}/{name}", self.home)]));
        std::iter::once(home).chain(below).collect()
    }

    pub(super) fn create_layer(&self, layer: &Layer) -> Arguments {
        zfs(&["create", &self.layer(layer)])
    }

    pub(super) fn snapshot(&self, layer: &Layer) -> Arguments {
        zfs(&["snapshot", &(self.layer(layer) + READY)])
    }

    /// With at most so many bytes in it; what it shares with the layer counts.
    pub(super) fn clone_of(&self, layer: &Layer, leaf: &str, most: Option<u64>) -> Arguments {
        let (from, to) = (self.layer(layer) + READY, self.clone(leaf));
        match most.map(|bytes| format!("refquota={bytes}")) {
            Some(quota) => zfs(&["clone", "-o", &quota, &from, &to]),
            None => zfs(&["clone", &from, &to]),
        }
    }

    /// One after the other, makes a sandbox's root as it is now a layer; `at` tells its moments
    /// apart.
    pub(super) fn copy_clone(&self, leaf: &str, layer: &Layer, at: &str) -> [Arguments; 4] {
        let (moment, layer) = (self.moment(leaf, at), self.layer(layer));
        [
            zfs(&["snapshot", &moment]),
            zfs(&["clone", &moment, &layer]),
            zfs(&["promote", &layer]),
            zfs(&["snapshot", &(layer + READY)]),
        ]
    }

    /// The snapshot of a sandbox's root that a copy is made of.
    pub(super) fn moment(&self, leaf: &str, at: &str) -> String {
        format!("{}@at-{at}", self.clone(leaf))
    }

    /// Makes what `dataset` is a clone of its own.
    pub(super) fn promote(&self, dataset: &str) -> Arguments {
        zfs(&["promote", dataset])
    }

    /// With its snapshots; fails while one of them has clones.
    pub(super) fn destroy(&self, dataset: &str) -> Arguments {
        zfs(&["destroy", "-r", dataset])
    }

    /// Writes all that is in memory only to the disks; of the whole pool: zpool-sync(8).
    pub(super) fn sync(&self) -> Arguments {
        let pool = self.home.split('/').next().unwrap_or_default();
        [ZPOOL, "sync", pool].map(str::to_owned).to_vec()
    }

    pub(super) fn list(&self) -> Arguments {
        let columns = "name,origin,referenced,refquota";
        zfs(&["list", "-H", "-p", "-o", columns, "-t", "filesystem,snapshot", "-r", &self.home])
    }

    pub(super) fn read_list(&self, printed: &str) -> Found {
        let mut found = Found::default();
        for line in printed.lines() {
            let mut columns = line.split('\t');
            let mut column = || columns.next().unwrap_or("-");
            let (name, origin, referenced, quota) = (column(), column(), column(), column());
            let Some(below) = name.strip_prefix(&self.home) else { continue };
            if let Some(layer) = below.strip_prefix("/layers/") {
                match layer.split_once('@') {
                    Some((layer, "ready")) => {
                        let size = referenced.parse().unwrap_or(0);
                        found.ready.insert(Layer(layer.to_owned()), size);
                    }
                    Some(_) => {}
                    None => found.layers.push(Layer(layer.to_owned())),
                }
            } else if let Some(leaf) = below.strip_prefix("/clones/").filter(|it| !it.contains('@'))
            {
                let quota = quota.parse().ok().filter(|bytes| *bytes > 0);
                found.clones.push(Root { leaf: leaf.to_owned(), of: self.layer_of(origin), quota });
            }
            if origin != "-" {
                found.origins.push((name.to_owned(), origin.to_owned()));
            }
        }
        found
    }

    fn layer_of(&self, origin: &str) -> Option<Layer> {
        let layer = origin.strip_prefix(&self.home)?.strip_prefix("/layers/")?;
        Some(Layer(layer.strip_suffix(READY)?.to_owned()))
    }
}

/// What there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Complete or not.
    pub(super) layers: Vec<Layer>,
    /// Those of them that can be cloned, and what is in them (bytes).
    pub(super) ready: BTreeMap<Layer, u64>,
    pub(super) clones: Vec<Root>,
    /// Datasets, and the snapshots that they are clones of.
    origins: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) leaf: String,
    /// The layer that it was made of, if it is one's that is ready.
    pub(super) of: Option<Layer>,
    pub(super) quota: Option<u64>,
}

/// What is in the way of destroying a dataset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InTheWay {
    /// Something is made of it: kept until that is gone, rather than promoted, as a clone that took
    /// it over would be as large as all of it.
    Clones,
    /// This one, which can have the snapshot that both share.
    Promotable(String),
}

impl Found {
    /// `None` when nothing is.
    pub(super) fn in_the_way_of(&self, dataset: &str) -> Option<InTheWay> {
        let mut dependents = self.origins.iter().filter_map(|(name, origin)| {
            let (of, snapshot) = origin.split_once('@')?;
            (of == dataset).then_some((name, snapshot == "ready"))
        });
        let mut first = None;
        if dependents.any(|(name, of_ready)| {
            first.get_or_insert(name);
            of_ready
        }) {
            return Some(InTheWay::Clones);
        }
        first.map(|name| InTheWay::Promotable(name.clone()))
    }
}

/// Whether zfs(8) failed because what it was to destroy or list is not there.
pub(super) fn says_missing(error: &str) -> bool {
    // The latter of a snapshot: cmd/zfs/zfs_main.c.
    ["dataset does not exist", "could not find any snapshots to destroy"]
        .iter()
        .any(|said| error.contains(said))
}

/// Whether it failed because what it was to make is there.
pub(super) fn says_exists(error: &str) -> bool {
    error.contains("dataset already exists")
}

/// Whether it failed because something is made of what it was to destroy.
pub(super) fn says_cloned(error: &str) -> bool {
    error.contains("has dependent clones")
}

fn zfs(arguments: &[&str]) -> Arguments {
    std::iter::once(&ZFS).chain(arguments).map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { home: "zroot/var/coppice-abcdefgh".into() }
    }

    fn line(arguments: Arguments) -> String {
        arguments.join(" ")
    }

    #[test]
    fn the_command_lines_are_these() {
        let (names, layer) = (names(), Layer("ab12".into()));
        let home: Vec<String> = names.create_home().into_iter().map(line).collect();
        assert_eq!(
            home,
            [
                "/sbin/zfs create -o mountpoint=legacy -o atime=off zroot/var/coppice-abcdefgh",
                "/sbin/zfs create zroot/var/coppice-abcdefgh/layers",
                "/sbin/zfs create zroot/var/coppice-abcdefgh/clones",
            ]
        );
        let below = "zroot/var/coppice-abcdefgh";
        let expect = |arguments, expected: &str| {
            assert_eq!(line(arguments), format!("/sbin/zfs {}", expected.replace('~', below)));
        };
        expect(names.create_layer(&layer), "create ~/layers/ab12");
        expect(names.snapshot(&layer), "snapshot ~/layers/ab12@ready");
        expect(names.clone_of(&layer, "c1", None), "clone ~/layers/ab12@ready ~/clones/c1");
        expect(
            names.clone_of(&layer, "c1", Some(7)),
            "clone -o refquota=7 ~/layers/ab12@ready ~/clones/c1",
        );
        let [first, second, third, fourth] = names.copy_clone("c1", &layer, "x");
        expect(first, "snapshot ~/clones/c1@at-x");
        expect(second, "clone ~/clones/c1@at-x ~/layers/ab12");
        expect(third, "promote ~/layers/ab12");
        expect(fourth, "snapshot ~/layers/ab12@ready");
        expect(names.destroy(&names.clone("c1")), "destroy -r ~/clones/c1");
        let columns = "name,origin,referenced,refquota";
        expect(names.list(), &format!("list -H -p -o {columns} -t filesystem,snapshot -r ~"));
        assert_eq!(line(names.sync()), "/sbin/zpool sync zroot");
    }

    #[test]
    fn datasets_of_different_gateways_differ() {
        let of = |path: &str| Names::new("zroot", &Tag::of(Path::new(path)));
        assert_ne!(of("/srv/one"), of("/srv/two"));
    }

    #[test]
    fn a_layer_is_named_by_its_digest_and_otherwise_by_its_path() {
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(Layer::of(&Path::new("/t/layers").join(&digest)).as_str(), digest);
        let odd = Layer::of(Path::new("/jails/my base@1"));
        assert_eq!(odd.as_str().len(), 64);
        assert_ne!(odd, Layer::of(Path::new("/jails/my base@2")));
    }

    #[test]
    fn a_listing_tells_layers_from_those_that_are_ready_and_whose_clones_there_are() {
        let home = "zroot/var/coppice-abcdefgh";
        let printed = [
            "\t-\t96\t0",
            "/clones\t-\t96\t0",
            "/clones/c1\t~/layers/a@ready\t500\t2000",
            "/clones/c1@at-1\t-\t500\t-",
            "/clones/c2\tzroot/other@x\t1\t0",
            "/clones/c3\t~/layers/b@at-2\t1\t0",
            "/layers\t-\t96\t0",
            "/layers/a\t-\t400\t0",
            "/layers/a@ready\t-\t400\t-",
            "/layers/a@theirs\t-\t400\t-",
            "/layers/b\t-\t1\t0",
        ]
        .map(|line| format!("{home}{}\n", line.replace('~', home)))
        .concat();
        let layer = |name: &str| Layer(name.into());
        let clone = |leaf: &str, of: Option<&str>, quota| Root {
            leaf: leaf.into(),
            of: of.map(layer),
            quota,
        };
        let found = names().read_list(&printed);
        assert_eq!(found.layers, [layer("a"), layer("b")]);
        assert_eq!(found.ready, [(layer("a"), 400)].into());
        assert_eq!(
            found.clones,
            [clone("c1", Some("a"), Some(2000)), clone("c2", None, None), clone("c3", None, None)]
        );
        let in_the_way_of = |name: &str| found.in_the_way_of(&format!("{home}{name}"));
        assert_eq!(in_the_way_of("/layers/a"), Some(InTheWay::Clones));
        let third = format!("{home}/clones/c3");
        assert_eq!(in_the_way_of("/layers/b"), Some(InTheWay::Promotable(third)));
        assert_eq!(in_the_way_of("/clones/c1"), None);
        assert_eq!(names().read_list("cannot open"), Found::default());
    }

    #[test]
    fn zfs_is_understood() {
        assert!(says_missing("cannot open 'zroot/x': dataset does not exist"));
        assert!(says_missing("could not find any snapshots to destroy; check snapshot names."));
        assert!(says_exists("cannot create 'zroot/x': dataset already exists"));
        assert!(!says_missing("cannot destroy 'zroot/x': dataset is busy"));
        assert!(says_cloned("cannot destroy 'zroot/x': filesystem has dependent clones"));
        assert!(says_cloned("cannot destroy 'zroot/x@at-1': snapshot has dependent clones"));
    }
}
