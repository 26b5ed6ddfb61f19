//! With a pool that is a map.

use std::{cell::Cell, collections::BTreeSet};

use super::*;

/// Datasets with the snapshots that they are clones of, and snapshots in the order they were taken,
/// as zfs(8) would have made them.
#[derive(Clone, Default)]
struct Pool {
    datasets: BTreeMap<String, Option<String>>,
    quotas: BTreeMap<String, String>,
    no_more_ready: bool,
    snapshots: Vec<String>,
}

const SIZE: u64 = 1000;

impl Pool {
    fn act(&mut self, arguments: &Arguments) -> Result<String, Error> {
        let fails = |why: &str| Err(Error::Unsupported(format!("zfs: {why}: {arguments:?}")));
        let last = arguments[arguments.len() - 1].clone();
        let there =
            |name: &String| self.datasets.contains_key(name) || self.snapshots.contains(name);
        match arguments[1].as_str() {
            "create" | "snapshot" | "clone" if there(&last) => {
                return fails("dataset already exists");
            }
            "create" => drop(self.datasets.insert(last, None)),
            "snapshot" if self.no_more_ready && last.ends_with("@ready") => {
                return fails("no space");
            }
            "snapshot" => self.snapshots.push(last),
            "clone" => {
                let origin = arguments[arguments.len() - 2].clone();
                if !there(&origin) {
                    return fails("no such snapshot");
                }
                if arguments[2] == "-o" {
                    self.quotas.insert(last.clone(), arguments[3].replace("refquota=", ""));
                }
                self.datasets.insert(last, Some(origin));
            }
            "promote" => return self.promote(&last),
            "destroy" if !there(&last) => return fails("dataset does not exist"),
            "destroy" => {
                let own = format!("{last}@");
                let of_it = |origin: &Option<String>| {
                    origin.as_ref().is_some_and(|origin| origin.starts_with(&own))
                };
                if self.datasets.values().any(of_it) {
                    return fails("filesystem has dependent clones");
                }
                self.datasets.remove(&last);
                self.snapshots.retain(|name| *name != last);
                self.snapshots.retain(|name| !name.starts_with(&own));
            }
            "sync" => {}
            "list" => {
                let of_dataset = |(name, origin): (&String, &Option<String>)| {
                    let origin = origin.as_deref().unwrap_or("-");
                    let quota = self.quotas.get(name).map_or("0", String::as_str);
                    format!("{name}\t{origin}\t{SIZE}\t{quota}\n")
                };
                let snapshots = self.snapshots.iter();
                let lines = self.datasets.iter().map(of_dataset);
                return Ok(lines
                    .chain(snapshots.map(|name| format!("{name}\t-\t{SIZE}\t-\n")))
                    .collect());
            }
            other => return fails(other),
        }
        Ok(String::new())
    }

    /// zfs-promote(8): the snapshot that was cloned, and those before it, become the clone's.
    fn promote(&mut self, clone: &str) -> Result<String, Error> {
        let fails = |why: &str| Err(Error::Unsupported(format!("zfs: {why}: promote {clone}")));
        let Some(Some(origin)) = self.datasets.get(clone).cloned() else {
            return fails("not a cloned filesystem");
        };
        let parent = origin.split('@').next().unwrap().to_owned();
        let last = self.snapshots.iter().position(|name| *name == origin).unwrap();
        let moved: Vec<String> = self.snapshots[..=last]
            .iter()
            .filter(|name| name.starts_with(&format!("{parent}@")))
            .cloned()
            .collect();
        for old in moved {
            let new = old.replacen(&parent, clone, 1);
            if self.snapshots.contains(&new) {
                return fails("conflicting snapshot");
            }
            let renamed = |name: &mut String| {
                if *name == old {
                    name.clone_from(&new);
                }
            };
            self.snapshots.iter_mut().for_each(renamed);
            self.datasets.values_mut().flatten().for_each(renamed);
        }
        let grandparent = self.datasets.insert(parent.clone(), None).flatten();
        let shared = origin.replacen(&parent, clone, 1);
        self.datasets.insert(parent, Some(shared));
        self.datasets.insert(clone.to_owned(), grandparent);
        Ok(String::new())
    }
}

struct World {
    directory: tempfile::TempDir,
    pool: Arc<Mutex<Pool>>,
    layer: PathBuf,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("templates/layers").join("ab".repeat(32));
        fs::create_dir_all(&layer).unwrap();
        Self { directory, pool: Arc::default(), layer }
    }

    /// A gateway that has just started, whose thread is the test's.
    fn gateway(&self) -> (Zfs, Receiver<Work>) {
        let pool = Arc::clone(&self.pool);
        let tools = Tools {
            zfs: Box::new(move |arguments| pool.lock().act(arguments)),
            copy: |_, _, _| Ok(()),
            clear: |_| (),
        };
        let zfs = Zfs::new(self.directory.path(), "zroot/x", tools);
        let todo = zfs.todo.lock().take().unwrap();
        zfs.prepare().unwrap();
        (zfs, todo)
    }

    fn has(&self, dataset: &str) -> bool {
        self.pool.lock().datasets.contains_key(dataset)
    }

    fn clones(&self) -> usize {
        self.pool.lock().datasets.keys().filter(|name| name.contains("/clones/")).count()
    }
}

fn work(zfs: &Zfs, todo: &Receiver<Work>) {
    todo.try_iter().for_each(|work| zfs.shared.work(work));
}

/// As a create does it.
fn make(zfs: &Zfs, layer: &Path) -> (SandboxId, String) {
    let id = SandboxId::random();
    let dataset = zfs.dataset(layer, id, None).unwrap();
    zfs.clone_layer(layer, id, None).unwrap();
    (id, dataset)
}

#[test]
fn a_layer_is_made_behind_the_first_that_asks_and_has_clones_ready_then() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    assert!(!zfs.has(&world.layer, None).unwrap() && !zfs.has(&world.layer, None).unwrap());
    assert_eq!(todo.try_iter().map(|work| zfs.shared.work(work)).count(), 1, "asked for once");
    assert!(zfs.has(&world.layer, None).unwrap());
    assert_eq!(world.clones(), READY);
}

#[test]
fn a_create_takes_a_clone_that_is_ready_and_makes_one_when_there_is_none() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer, None).unwrap();
    work(&zfs, &todo);
    let mut made = HashSet::new();
    for taken in 1..=READY + 1 {
        let (id, dataset) = make(&zfs, &world.layer);
        assert!(world.has(&dataset) && made.insert(dataset));
        assert!(zfs.list().unwrap().contains(&id));
        assert_eq!(world.clones(), READY.max(taken), "zfs ran only when none was ready");
    }
    work(&zfs, &todo);
    assert_eq!(world.clones(), READY + 1 + READY, "and as many are ready again");
}

#[test]
fn a_clone_goes_behind_its_sandbox_and_twice_is_once() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer, None).unwrap();
    work(&zfs, &todo);
    let (id, dataset) = make(&zfs, &world.layer);
    zfs.destroy(id).unwrap();
    zfs.destroy(id).unwrap();
    assert!(zfs.list().unwrap().is_empty());
    work(&zfs, &todo);
    assert!(!world.has(&dataset));
}

#[test]
fn the_next_gateway_finds_sandboxes_and_what_was_ready_and_ends_what_was_given_up() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer, None).unwrap();
    work(&zfs, &todo);
    let (kept, kept_dataset) = make(&zfs, &world.layer);
    let (ended, ended_dataset) = make(&zfs, &world.layer);
    zfs.destroy(ended).unwrap();

    let (next, todo) = world.gateway();
    assert!(next.has(&world.layer, None).unwrap());
    assert_eq!(next.list().unwrap(), [kept]);
    work(&next, &todo);
    assert!(world.has(&kept_dataset) && !world.has(&ended_dataset));
    assert_eq!(world.clones(), 1 + READY);
    assert_ne!(next.dataset(&world.layer, SandboxId::random(), None).unwrap(), kept_dataset);
}

#[test]
fn a_layer_outlives_its_template_as_long_as_a_sandbox_is_made_of_it() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer, None).unwrap();
    work(&zfs, &todo);
    let (id, _) = make(&zfs, &world.layer);
    fs::remove_dir_all(&world.layer).unwrap();
    let layer = zfs.shared.names.layer(&Layer::of(&world.layer));

    let (next, todo) = world.gateway();
    work(&next, &todo);
    assert!(world.has(&layer));
    assert_eq!(world.clones(), 1, "none is kept ready");
    assert!(!next.has(&world.layer, None).unwrap());
    next.destroy(id).unwrap();

    let (last, todo) = world.gateway();
    work(&last, &todo);
    assert!(!world.has(&layer));
}

#[test]
fn a_copy_that_was_broken_off_is_made_anew() {
    let world = World::new();
    let (zfs, _) = world.gateway();
    let layer = zfs.shared.names.layer(&Layer::of(&world.layer));
    world.pool.lock().datasets.insert(layer, None);
    let (next, todo) = world.gateway();
    assert!(!next.has(&world.layer, None).unwrap(), "it has no snapshot");
    work(&next, &todo);
    assert!(next.has(&world.layer, None).unwrap());
}

#[test]
fn a_sandbox_may_have_so_much_beside_its_template_and_clones_are_ready_for_that() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer, Some(500)).unwrap();
    work(&zfs, &todo);
    let make = |zfs: &Zfs| {
        let id = SandboxId::random();
        let dataset = zfs.dataset(&world.layer, id, Some(500)).unwrap();
        zfs.clone_layer(&world.layer, id, Some(500)).unwrap();
        (id, dataset)
    };
    let before = world.clones();
    let (first, dataset) = make(&zfs);
    assert_eq!(world.clones(), before);
    assert_eq!(world.pool.lock().quotas[&dataset], (SIZE + 500).to_string());
    assert_eq!(zfs.base(first).unwrap(), Some(SIZE));
    work(&zfs, &todo);
    let before = world.clones();
    let (_, dataset) = make(&zfs);
    assert_eq!(world.clones(), before, "that one was ready");
    assert_eq!(world.pool.lock().quotas[&dataset], (SIZE + 500).to_string());

    let (next, _todo) = world.gateway();
    let before = world.clones();
    make(&next);
    assert_eq!(world.clones(), before, "and one for the next gateway, too");
}

#[test]
fn what_is_kept_for_a_sandbox_is_there_until_its_directory_is_gone() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer, None).unwrap();
    work(&zfs, &todo);
    let (id, dataset) = make(&zfs, &world.layer);
    let directory = world.directory.path().join("sandboxes").join(id.to_string());
    fs::create_dir_all(&directory).unwrap();
    assert!(zfs.keep(id).unwrap() && zfs.keep(id).unwrap(), "twice is once");
    assert!(zfs.list().unwrap().is_empty(), "it holds nothing that runs");

    // A gateway that died: the next clears up, and does not take it.
    let (next, todo) = world.gateway();
    next.destroy(id).unwrap();
    work(&next, &todo);
    assert_eq!(next.kept(id).unwrap().as_ref(), Some(&dataset));
    next.take_up(id).unwrap();
    assert_eq!((next.list().unwrap(), next.kept(id).unwrap()), (vec![id], None));
    assert!(next.keep(id).unwrap());

    fs::remove_dir(&directory).unwrap();
    next.destroy(id).unwrap();
    work(&next, &todo);
    assert!(!world.has(&dataset));
    assert!(!next.keep(id).unwrap());
}

/// A world with a sandbox, and how copies of it are made and let go.
struct Copies {
    world: World,
    zfs: Zfs,
    todo: Receiver<Work>,
}

impl Copies {
    fn new() -> (Self, SandboxId, String) {
        let world = World::new();
        let (zfs, todo) = world.gateway();
        zfs.has(&world.layer, None).unwrap();
        work(&zfs, &todo);
        let (id, dataset) = make(&zfs, &world.layer);
        (Self { world, zfs, todo }, id, dataset)
    }

    fn copy(&self, of: SandboxId, name: &str) -> PathBuf {
        let to = self.world.directory.path().join(name);
        assert!(self.zfs.copy(of, &to, &|| false).unwrap());
        to
    }

    fn layer(&self, copy: &Path) -> String {
        self.zfs.shared.names.layer(&layer_of(copy))
    }

    /// As its owner does, who moves it away first.
    fn release(&self, copy: &Path) {
        let aside = copy.with_extension("gone");
        fs::rename(copy, &aside).unwrap();
        self.zfs.release_copy(&aside).unwrap();
        fs::remove_dir_all(aside).unwrap();
        self.work();
    }

    fn destroy(&self, id: SandboxId) {
        self.zfs.destroy(id).unwrap();
        self.work();
    }

    fn work(&self) {
        work(&self.zfs, &self.todo);
    }
}

#[test]
fn sandboxes_are_made_of_a_copy_as_of_any_layer() {
    let (copies, id, dataset) = Copies::new();
    let copy = copies.copy(id, "copy");
    assert!(copy.is_dir() && copies.zfs.is_copy(&copy).unwrap());
    assert!(copies.zfs.has(&copy, None).unwrap());
    let (fork, _) = make(&copies.zfs, &copy);
    copies.work();
    copies.destroy(id);
    assert!(!copies.world.has(&dataset), "it does not outlive the sandbox for its copy");
    let (next, todo) = copies.world.gateway();
    assert!(next.has(&copy, None).unwrap());
    assert_eq!(next.list().unwrap(), [fork]);
    work(&next, &todo);
    assert!(copies.world.has(&copies.layer(&copy)), "nor does the next gateway take it away");
    assert!(
        !copies
            .zfs
            .copy(SandboxId::random(), &copies.world.directory.path().join("x"), &|| false)
            .unwrap()
    );
}

#[test]
fn copies_and_their_sandbox_go_in_whatever_order() {
    // The sandbox is 0, its copies 1 to 3.
    let orders =
        [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 3, 0], [3, 2, 1, 0], [1, 2, 3, 0], [2, 3, 0, 1]];
    for order in orders {
        let (copies, id, dataset) = Copies::new();
        let made = ["1", "2", "3"].map(|name| copies.copy(id, name));
        for one in order {
            let gone = match one {
                0 => {
                    copies.destroy(id);
                    dataset.clone()
                }
                copy => {
                    let layer = copies.layer(&made[copy - 1]);
                    copies.release(&made[copy - 1]);
                    layer
                }
            };
            assert!(!copies.world.has(&gone), "{one} of {order:?}");
        }
    }
}

#[test]
fn a_copy_that_is_let_go_is_kept_for_those_made_of_it_and_goes_with_the_last() {
    let (copies, id, _) = Copies::new();
    let copy = copies.copy(id, "copy");
    let (fork, _) = make(&copies.zfs, &copy);
    copies.work();
    let layer = copies.layer(&copy);
    copies.release(&copy);
    assert!(copies.world.has(&layer));
    copies.destroy(fork);
    assert!(!copies.world.has(&layer));
    copies.destroy(id);
}

#[test]
fn a_directory_that_stands_for_a_dataset_is_no_empty_root() {
    let (copies, id, _) = Copies::new();
    let copy = copies.copy(id, "copy");
    copies.zfs.release_copy(&copy).unwrap();
    let error = copies.zfs.has(&copy, None).unwrap_err().to_string();
    assert!(error.contains("is not there"), "{error}");
}

#[test]
fn what_a_user_left_is_not_taken_for_a_dataset() {
    let place = tempfile::tempdir().unwrap();
    let (copies, id, _) = Copies::new();
    let copy = copies.copy(id, "copy");
    let mark = place.path().join(MARK);
    // A link to one, a pipe, and what goes on after it.
    std::os::unix::fs::symlink(copy.join(MARK), &mark).unwrap();
    assert_ne!(layer_of(place.path()), layer_of(&copy));
    assert!(check_is_tree(place.path()).is_err());
    fs::remove_file(&mark).unwrap();
    nix::unistd::mkfifo(&mark, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_ne!(layer_of(place.path()), layer_of(&copy));
    fs::remove_file(&mark).unwrap();
    fs::write(&mark, fs::read_to_string(copy.join(MARK)).unwrap() + "ab").unwrap();
    assert_ne!(layer_of(place.path()), layer_of(&copy));
    // Nor is what is named as a template's layer.
    let layer = place.path().join("ab".repeat(32));
    fs::create_dir(&layer).unwrap();
    fs::copy(copy.join(MARK), layer.join(MARK)).unwrap();
    assert_eq!(layer_of(&layer), Layer::of(&layer));
}

#[test]
fn a_copy_that_fails_leaves_nothing() {
    let (copies, id, dataset) = Copies::new();
    copies.work();
    let names = |pool: &Pool| {
        let snapshots: BTreeSet<_> = pool.snapshots.iter().cloned().collect();
        (pool.datasets.clone(), snapshots)
    };
    let before = names(&copies.world.pool.lock());
    let to = copies.world.directory.path().join("copy");
    let is_undone = || {
        copies.work();
        assert_eq!(names(&copies.world.pool.lock()), before);
        assert!(!to.exists() && !copies.zfs.is_copy(&to).unwrap());
    };
    // What comes last fails.
    copies.world.pool.lock().no_more_ready = true;
    assert!(copies.zfs.copy(id, &to, &|| false).is_err());
    is_undone();
    copies.world.pool.lock().no_more_ready = false;
    for steps in 0..4 {
        let left = Cell::new(steps);
        let is_enough = || left.replace(left.get() - 1) == 0;
        let error = copies.zfs.copy(id, &to, &is_enough).unwrap_err();
        assert!(matches!(error, Error::BrokenOff(_)), "after {steps} steps: {error}");
        is_undone();
    }
    // And what is there already is left alone.
    fs::create_dir(&to).unwrap();
    assert!(copies.zfs.copy(id, &to, &|| false).unwrap_err().to_string().starts_with("mkdir "));
    assert!(to.exists());
    copies.destroy(id);
    assert!(!copies.world.has(&dataset));
}
