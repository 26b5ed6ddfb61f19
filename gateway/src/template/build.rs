//! Building a template and giving it its name.
//!
//! A build works in `build-*`, which nobody looks into, and becomes visible by two renames, layer
//! first; a gateway that dies on the way leaves only a `build-*` for the next to remove.

use std::{
    collections::BTreeMap, fs, os::unix::fs::DirBuilderExt, path::Path, thread, time::Duration,
};

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::{
    recipe::{self, Below, Built, Recipe},
    record::Record,
    store::{Error, Shared},
    tool,
    tree::{self, failed},
};
use crate::backend::Limits;

pub(super) const LIMITS: Limits = Limits { cpus: 2, memory_bytes: 1 << 30, processes: 1024 };
/// Between one look whether the lock is free and the next.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl Shared {
    /// Blocks until it is built, by this or by another gateway.
    pub(super) fn build(&self, recipe: Recipe, stop: &CancellationToken) -> Result<(), Error> {
        let _lock = loop {
            if let Some(lock) = self.try_lock()? {
                break lock;
            }
            self.at(recipe, "waiting for another build in the same place");
            if stop.is_cancelled() {
                return Err(recipe::Error::Tool(tool::Error::Stopped).into());
            }
            thread::sleep(LOOK_AGAIN);
        };
        self.load()?;
        if self.is_current(recipe) {
            return Ok(());
        }
        self.remove_leftovers()?;

        let lying = recipe.below().map(|below| Record::read(&self.record(below.name())));
        let lying = lying.transpose()?;
        let below = lying.as_ref().map(|record| Below {
            layers: record.layers.iter().map(|digest| self.layer(digest)).collect(),
            node: record.node.clone(),
        });
        let dir = self.dir.join(format!("build-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        let built = recipe
            .build(&dir, below.as_ref(), stop, &|step| self.at(recipe, step))
            .map_err(Error::from)
            .and_then(|built| self.publish(recipe, &dir, built, lying));
        let removed = tree::remove(&dir);
        built?;
        removed?;
        self.load()
    }

    /// Gives a finished root its name and makes the template's name mean it.
    fn publish(
        &self,
        recipe: Recipe,
        dir: &Path,
        built: Built,
        below: Option<Record>,
    ) -> Result<(), Error> {
        self.at(recipe, "naming it by its content");
        let digest = tree::digest(&built.root)?;
        // Bytes before names: a power cut must not leave a name for a hollow tree.
        nix::unistd::sync();
        let layer = self.layer(&digest);
        if !layer.exists() {
            fs::rename(&built.root, &layer).map_err(failed("rename", &built.root))?;
        }
        let mut layers = vec![digest];
        layers.extend(below.into_iter().flat_map(|below| below.layers));
        let record = Record {
            layers,
            limits: LIMITS,
            env: BTreeMap::new(),
            user: "user".to_owned(),
            workdir: None,
            recipe: recipe.fingerprint(),
            node: built.node,
            built_at: Utc::now(),
        };
        let (draft, path) = (dir.join("record.json"), self.record(recipe.name()));
        record.write(&draft)?;
        fs::rename(&draft, &path).map_err(failed("rename", &draft))?;
        self.at(recipe, "built");
        Ok(())
    }
}
