//! With a pool that is a map.

use std::collections::BTreeMap;

use super::*;

/// Datasets and snapshots with their origins, as zfs(8) would have made them.
type Pool = Arc<Mutex<BTreeMap<String, String>>>;

fn act(pool: &Pool, arguments: &Arguments) -> Result<String, Error> {
    let fails = |why: &str| Err(Error::Unsupported(format!("zfs: {why}")));
    let mut pool = pool.lock();
    let last = arguments[arguments.len() - 1].clone();
    match arguments[1].as_str() {
        "create" | "snapshot" | "clone" if pool.contains_key(&last) => {
            return fails("dataset already exists");
        }
        "create" | "snapshot" => drop(pool.insert(last, "-".into())),
        "clone" if !pool.contains_key(&arguments[2]) => return fails("no such snapshot"),
        "clone" => drop(pool.insert(last, arguments[2].clone())),
        "destroy" if !pool.contains_key(&last) => return fails("dataset does not exist"),
        "destroy" if pool.values().any(|origin| origin.starts_with(&format!("{last}@"))) => {
            return fails("filesystem has dependent clones");
        }
        "destroy" => {
            pool.retain(|name, _| *name != last && !name.starts_with(&(last.clone() + "@")))
        }
        "list" => {
            return Ok(pool.iter().map(|(name, origin)| format!("{name}\t{origin}\n")).collect());
        }
        other => return fails(other),
    }
    Ok(String::new())
}

struct World {
    directory: tempfile::TempDir,
    pool: Pool,
    layer: PathBuf,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("templates/layers").join("ab".repeat(32));
        fs::create_dir_all(&layer).unwrap();
        Self { directory, pool: Pool::default(), layer }
    }

    /// A gateway that has just started, whose thread is the test's.
    fn gateway(&self) -> (Zfs, Receiver<Work>) {
        let pool = Arc::clone(&self.pool);
        let tools = Tools {
            zfs: Box::new(move |arguments| act(&pool, arguments)),
            copy: |_, _, _| Ok(()),
            clear: |_| (),
        };
        let zfs = Zfs::new(self.directory.path(), "zroot/x", tools);
        let todo = zfs.todo.lock().take().unwrap();
        zfs.prepare().unwrap();
        (zfs, todo)
    }

    fn clones(&self) -> usize {
        self.pool.lock().keys().filter(|name| name.contains("/clones/")).count()
    }
}

fn work(zfs: &Zfs, todo: &Receiver<Work>) {
    todo.try_iter().for_each(|work| zfs.shared.work(work));
}

/// As a create does it.
fn make(zfs: &Zfs, layer: &Path) -> (SandboxId, String) {
    let id = SandboxId::random();
    let dataset = zfs.dataset(layer, id).unwrap();
    zfs.clone_layer(layer, id).unwrap();
    (id, dataset)
}

#[test]
fn a_layer_is_made_behind_the_first_that_asks_and_has_clones_ready_then() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    assert!(!zfs.has(&world.layer) && !zfs.has(&world.layer));
    assert_eq!(todo.try_iter().map(|work| zfs.shared.work(work)).count(), 1, "asked for once");
    assert!(zfs.has(&world.layer));
    assert_eq!(world.clones(), READY);
}

#[test]
fn a_create_takes_a_clone_that_is_ready_and_makes_one_when_there_is_none() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer);
    work(&zfs, &todo);
    let mut made = HashSet::new();
    for taken in 1..=READY + 1 {
        let (id, dataset) = make(&zfs, &world.layer);
        assert!(world.pool.lock().contains_key(&dataset) && made.insert(dataset));
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
    zfs.has(&world.layer);
    work(&zfs, &todo);
    let (id, dataset) = make(&zfs, &world.layer);
    zfs.destroy(id).unwrap();
    zfs.destroy(id).unwrap();
    assert!(zfs.list().unwrap().is_empty());
    work(&zfs, &todo);
    assert!(!world.pool.lock().contains_key(&dataset));
}

#[test]
fn the_next_gateway_finds_sandboxes_and_what_was_ready_and_ends_what_was_given_up() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer);
    work(&zfs, &todo);
    let (kept, kept_dataset) = make(&zfs, &world.layer);
    let (ended, ended_dataset) = make(&zfs, &world.layer);
    zfs.destroy(ended).unwrap();

    let (next, todo) = world.gateway();
    assert!(next.has(&world.layer));
    assert_eq!(next.list().unwrap(), [kept]);
    work(&next, &todo);
    let pool = world.pool.lock().clone();
    assert!(pool.contains_key(&kept_dataset) && !pool.contains_key(&ended_dataset));
    assert_eq!(world.clones(), 1 + READY);
    assert_ne!(next.dataset(&world.layer, SandboxId::random()).unwrap(), kept_dataset);
}

#[test]
fn a_layer_outlives_its_template_as_long_as_a_sandbox_is_made_of_it() {
    let world = World::new();
    let (zfs, todo) = world.gateway();
    zfs.has(&world.layer);
    work(&zfs, &todo);
    let (id, _) = make(&zfs, &world.layer);
    fs::remove_dir_all(&world.layer).unwrap();
    let layer = zfs.shared.names.layer(&Layer::of(&world.layer));

    let (next, todo) = world.gateway();
    work(&next, &todo);
    assert!(world.pool.lock().contains_key(&layer));
    assert_eq!(world.clones(), 1, "none is kept ready");
    assert!(!next.has(&world.layer));
    next.destroy(id).unwrap();

    let (last, todo) = world.gateway();
    work(&last, &todo);
    assert!(!world.pool.lock().contains_key(&layer));
}

#[test]
fn a_copy_that_was_broken_off_is_made_anew() {
    let world = World::new();
    let (zfs, _) = world.gateway();
    let layer = zfs.shared.names.layer(&Layer::of(&world.layer));
    world.pool.lock().insert(layer, "-".into());
    let (next, todo) = world.gateway();
    assert!(!next.has(&world.layer), "it has no snapshot");
    work(&next, &todo);
    assert!(next.has(&world.layer));
}
