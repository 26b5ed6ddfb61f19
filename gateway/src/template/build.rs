//! Building a template and giving it its name.
//!
//! A build works in `build-*`, which nobody looks into, and becomes visible by two renames, layer
//! first; a gateway that dies on the way leaves only a `build-*` for the next to remove.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::Path,
    thread,
    time::Duration,
};

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::{
    import::Source,
    recipe::{self, Below, Built, ON_FREEBSD, Recipe},
    record::{IMPORTED, Record},
    store::{Error, Shared},
    tool,
    tree::{self, failed},
};
use crate::limits::{Bounds, Limits};

/// Of a template of which nobody has said anything else.
pub(super) const LIMITS: Limits = Limits::of(2, 1 << 30, 1024);
/// Between one look whether the lock is free and the next.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A finished root and what is to be remembered of it.
struct Made {
    built: Built,
    recipe: String,
    built_on: Vec<String>,
    /// Layers that go below its own.
    below: Vec<String>,
}

impl Shared {
    /// Blocks until it is built, by this or by another gateway.
    pub(super) fn build(&self, recipe: Recipe, stop: &CancellationToken) -> Result<(), Error> {
        let name = recipe.name();
        let _lock = self.wait_for_lock(name, stop)?;
        self.load()?;
        if self.is_current(recipe) {
            return Ok(());
        }
        let lying = recipe.below().map(|below| Record::read(&self.record(below.name())));
        let lying = lying.transpose()?;
        let below = lying.as_ref().map(|record| Below {
            layers: record.layers.iter().map(|digest| self.layer(digest)).collect(),
            node: record.node.clone(),
        });
        self.in_build_dir(|dir| {
            let built = recipe.build(dir, below.as_ref(), stop, &|step| self.at(name, step))?;
            let below = lying.map(|record| record.layers).unwrap_or_default();
            let made = if ON_FREEBSD {
                // A whole root, in which all that lies below is contained.
                Made { built, recipe: recipe.fingerprint(), built_on: below, below: Vec::new() }
            } else {
                Made { built, recipe: recipe.fingerprint(), built_on: Vec::new(), below }
            };
            self.publish(name, dir, made)
        })
    }

    /// Makes a template of a root file system that is there already; blocks.
    pub(super) fn import(
        &self,
        name: &str,
        source: &Source,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let _lock = self.wait_for_lock(name, stop)?;
        self.load()?;
        self.in_build_dir(|dir| {
            let root = source.bring(dir, stop, &|step| self.at(name, step))?;
            let built = Built { root, node: None };
            let recipe = IMPORTED.to_owned();
            let made = Made { built, recipe, built_on: Vec::new(), below: Vec::new() };
            self.publish(name, dir, made)
        })
    }

    /// Has sandboxes of a template be bounded so, and otherwise as those of any.
    pub(super) fn limit(&self, name: &str, said: &Bounds) -> Result<(), Error> {
        let Some(_lock) = self.try_lock()? else {
            return Err(Error::Building(self.dir.clone()));
        };
        self.load()?;
        if !self.found.read().contains_key(name) {
            return Err(Error::Unknown(name.to_owned()));
        }
        let path = self.record(name);
        let record = Record { limits: said.over(LIMITS), ..Record::read(&path)? };
        self.in_build_dir(|dir| {
            let draft = dir.join("record.json");
            record.write(&draft)?;
            Ok(fs::rename(&draft, &path).map_err(failed("rename", &draft))?)
        })
    }

    fn wait_for_lock(&self, name: &str, stop: &CancellationToken) -> Result<File, Error> {
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            self.at(name, "waiting for another build in the same place");
            if stop.is_cancelled() {
                return Err(recipe::Error::Tool(tool::Error::Stopped).into());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Does `work` in a directory of its own, which is gone afterwards; under the lock.
    fn in_build_dir(&self, work: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        self.remove_leftovers()?;
        let dir = self.dir.join(format!("build-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        let done = work(&dir);
        let removed = tree::remove(&dir);
        done?;
        removed?;
        self.load()
    }

    /// Gives a finished root its name and makes the template's name mean it.
    fn publish(&self, name: &str, dir: &Path, made: Made) -> Result<(), Error> {
        self.at(name, "naming it by its content");
        let built = made.built;
        let digest = tree::digest(&built.root)?;
        // Bytes before names: a power cut must not leave a name for a hollow tree.
        nix::unistd::sync();
        let layer = self.layer(&digest);
        if !layer.exists() {
            fs::rename(&built.root, &layer).map_err(failed("rename", &built.root))?;
        }
        let mut layers = vec![digest];
        layers.extend(made.below);
        let record = Record {
            layers,
            // Whatever it is made of anew, what somebody has said of it holds.
            limits: Record::read(&self.record(name)).map_or(LIMITS, |before| before.limits),
            env: BTreeMap::new(),
            user: "user".to_owned(),
            workdir: None,
            recipe: made.recipe,
            built_on: made.built_on,
            node: built.node,
            built_at: Utc::now(),
        };
        let (draft, path) = (dir.join("record.json"), self.record(name));
        record.write(&draft)?;
        fs::rename(&draft, &path).map_err(failed("rename", &draft))?;
        self.at(name, "built");
        Ok(())
    }
}
