//! The datasets of one data directory: what they are called, the command lines of zfs(8) that make
//! and destroy them, and what it prints. Runs nothing.
//!
//! ```text
//! <dataset of the data directory>/coppice-<tag>
//!     layers/<digest>           a template's layer, as it is on disk
//!     layers/<digest>@ready     what is cloned; there once the layer is complete
//!     clones/<leaf>             a root: a sandbox's, or ready and nobody's
//! ```
//!
//! All have `mountpoint=legacy`: nothing but the gateway mounts them, and zfs(8) not at boot.

use std::path::Path;

use super::pf::Tag;

const ZFS: &str = "/sbin/zfs";
const READY: &str = "@ready";

/// The arguments of one program, its name first.
pub(super) type Arguments = Vec<String>;

/// What a layer's dataset is called: the digest that the layer's directory is named by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Layer(String);

impl Layer {
    /// Directories that are named otherwise are told apart by their path.
    pub(super) fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = || blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex().to_string();
        Self(if is_digest { name.to_owned() } else { hash() })
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

    pub(super) fn clone_of(&self, layer: &Layer, leaf: &str) -> Arguments {
        zfs(&["clone", &(self.layer(layer) + READY), &self.clone(leaf)])
    }

    pub(super) fn destroy_clone(&self, leaf: &str) -> Arguments {
        zfs(&["destroy", &self.clone(leaf)])
    }

    /// With its snapshot; fails while that has clones.
    pub(super) fn destroy_layer(&self, layer: &Layer) -> Arguments {
        zfs(&["destroy", "-r", &self.layer(layer)])
    }

    pub(super) fn list(&self) -> Arguments {
        zfs(&["list", "-H", "-o", "name,origin", "-t", "filesystem,snapshot", "-r", &self.home])
    }

    pub(super) fn read_list(&self, printed: &str) -> Found {
        let mut found = Found::default();
        for line in printed.lines() {
            let (name, origin) = line.split_once('\t').unwrap_or((line, "-"));
            let Some(name) = name.strip_prefix(&self.home) else { continue };
            if let Some(layer) = name.strip_prefix("/layers/") {
                match layer.strip_suffix(READY) {
                    Some(layer) => found.ready.push(Layer(layer.to_owned())),
                    None if !layer.contains('@') => found.layers.push(Layer(layer.to_owned())),
                    None => {}
                }
            } else if let Some(leaf) = name.strip_prefix("/clones/") {
                found.clones.push((leaf.to_owned(), self.layer_of(origin)));
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
    /// Those of them that can be cloned.
    pub(super) ready: Vec<Layer>,
    pub(super) clones: Vec<(String, Option<Layer>)>,
}

impl Found {
    /// Whether anything still needs a layer. A template that is taken away while sandboxes are
    /// made of it leaves its dataset behind until the last of them is gone: it is kept rather
    /// than promoted, as a clone that took it over would be as large as all of it.
    pub(super) fn is_cloned(&self, layer: &Layer) -> bool {
        self.clones.iter().any(|(_, of)| of.as_ref() == Some(layer))
    }
}

/// Whether zfs(8) failed because what it was to destroy or list is not there.
pub(super) fn says_missing(error: &str) -> bool {
    error.contains("dataset does not exist")
}

/// Whether it failed because what it was to make is there.
pub(super) fn says_exists(error: &str) -> bool {
    error.contains("dataset already exists")
}

/// One tar(1) that reads a tree and one that writes it, owners, modes, flags and links kept.
pub(super) fn copy(from: &str, to: &str) -> (Arguments, Arguments) {
    let own = |arguments: &[&str]| arguments.iter().map(|text| (*text).to_owned()).collect();
    (
        own(&["/usr/bin/tar", "-c", "--numeric-owner", "-f", "-", "-C", from, "."]),
        own(&["/usr/bin/tar", "-x", "-p", "--numeric-owner", "-f", "-", "-C", to]),
    )
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
        expect(names.clone_of(&layer, "c1"), "clone ~/layers/ab12@ready ~/clones/c1");
        expect(names.destroy_clone("c1"), "destroy ~/clones/c1");
        expect(names.destroy_layer(&layer), "destroy -r ~/layers/ab12");
        expect(names.list(), "list -H -o name,origin -t filesystem,snapshot -r ~");
    }

    #[test]
    fn a_tree_is_copied_with_what_its_files_are() {
        let (read, write) = copy("/srv/a layer", "/srv/to");
        assert_eq!(read[6..], ["/srv/a layer", "."], "one argument, whatever is in it");
        assert_eq!(line(write), "/usr/bin/tar -x -p --numeric-owner -f - -C /srv/to");
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
        let printed = "zroot/var/coppice-abcdefgh\t-\n\
                       zroot/var/coppice-abcdefgh/clones\t-\n\
                       zroot/var/coppice-abcdefgh/clones/c1\tzroot/var/coppice-abcdefgh/layers/a@ready\n\
                       zroot/var/coppice-abcdefgh/clones/c2\tzroot/other@x\n\
                       zroot/var/coppice-abcdefgh/layers\t-\n\
                       zroot/var/coppice-abcdefgh/layers/a\t-\n\
                       zroot/var/coppice-abcdefgh/layers/a@ready\t-\n\
                       zroot/var/coppice-abcdefgh/layers/a@theirs\t-\n\
                       zroot/var/coppice-abcdefgh/layers/b\t-\n";
        let layer = |name: &str| Layer(name.into());
        let found = names().read_list(printed);
        assert_eq!(
            found,
            Found {
                layers: vec![layer("a"), layer("b")],
                ready: vec![layer("a")],
                clones: vec![("c1".into(), Some(layer("a"))), ("c2".into(), None)],
            }
        );
        assert!(found.is_cloned(&layer("a")) && !found.is_cloned(&layer("b")));
        assert_eq!(names().read_list("cannot open"), Found::default());
    }

    #[test]
    fn zfs_is_understood() {
        assert!(says_missing("cannot open 'zroot/x': dataset does not exist"));
        assert!(says_exists("cannot create 'zroot/x': dataset already exists"));
        assert!(!says_missing("cannot destroy 'zroot/x': dataset is busy"));
    }
}
