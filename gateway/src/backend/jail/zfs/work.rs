//! What is done to datasets behind those who make and end sandboxes, and what both need.

use std::{
    collections::HashSet,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use tracing::{info, warn};

use super::{
    Arguments, Claim, Error, Found, InTheWay, Kind, Layer, Of, READY, SandboxId, Shared, State,
    Work, zfs_names,
};

/// Between two looks for the directories of sandboxes whose datasets are kept.
const SWEEP: Duration = Duration::from_secs(5);
/// Clones in the way of one dataset that are promoted, more than a user's snapshots.
const PROMOTIONS: usize = 1000;

impl Shared {
    /// Returns what is left to do of what was begun.
    pub(super) fn prepare(&self) -> Result<Vec<Work>, Error> {
        self.claims.prepare()?;
        for arguments in self.names.create_home() {
            match self.zfs(&arguments) {
                Err(error) if zfs_names::says_exists(&error.to_string()) => {}
                result => drop(result?),
            }
        }
        let found = self.found()?;
        let mut used = HashSet::new();
        let mut work = Vec::new();
        for of in self.claims.all()? {
            match of {
                Of::Gone(leaf) => {
                    used.insert(leaf.clone());
                    work.push(Work::Destroy(leaf));
                }
                Of::Sandbox(_) | Of::Kept(_) => {
                    used.extend(self.claims.read(&of)?.map(|claim| claim.leaf));
                }
                Of::Copy(_) => {}
            }
        }
        let mut state = State::default();
        for (layer, size) in found.ready {
            if self.is_needed(&layer)? {
                state.ready.insert(layer, size);
            }
        }
        for root in found.clones {
            let is_used = used.contains(&root.leaf);
            match root.of.filter(|layer| state.ready.contains_key(layer)) {
                Some(layer) => {
                    // Of what there are sandboxes there will be more.
                    let ready = state.clones.entry(Kind { layer, most: root.quota }).or_default();
                    ready.extend((!is_used).then_some(root.leaf));
                }
                None if is_used => {}
                None => work.push(Work::Destroy(root.leaf)),
            }
        }
        for layer in found.layers {
            if !self.is_needed(&layer)? {
                work.push(Work::Forget(layer));
            }
        }
        work.extend(state.clones.keys().cloned().map(Work::Fill));
        *self.state.lock() = state;
        Ok(work)
    }

    /// Whether a template has a layer, or it is a copy that somebody has.
    fn is_needed(&self, layer: &Layer) -> Result<bool, Error> {
        let of_template = self.layers.join(layer.as_str()).exists();
        Ok(of_template || self.claims.copy(layer)?.is_some_and(|path| path.exists()))
    }

    pub(super) fn work_through(&self, todo: &Receiver<Work>) {
        loop {
            let work = match todo.recv_timeout(SWEEP) {
                Ok(work) => work,
                Err(RecvTimeoutError::Timeout) => Work::Sweep,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.work(work);
        }
    }

    pub(super) fn work(&self, work: Work) {
        let (done, otherwise) = match work {
            Work::Layer(layer, path, disk) => {
                (self.make_layer(layer, &path, disk), "its sandboxes have thin roots")
            }
            Work::Fill(kind) => (self.fill(&kind), "creates run zfs"),
            Work::Destroy(leaf) => {
                (self.destroy_clone(&leaf), "it is tried again at the next start")
            }
            Work::Forget(layer) => (self.forget(&layer), "it is tried again at the next start"),
            Work::Moment(leaf, at) => {
                let gone = self.destroy_if_there(&self.names.moment(&leaf, &at));
                (gone.map(drop), "it goes with its sandbox")
            }
            Work::Sweep => (self.sweep(), "it is tried again"),
        };
        if let Err(error) = done {
            warn!(%error, "a dataset could not be seen to: {otherwise}");
        }
    }

    fn make_layer(&self, layer: Layer, path: &Path, disk: Option<u64>) -> Result<(), Error> {
        let staging = self.claims.directory().join(format!(".layer-{}", layer.as_str()));
        (self.tools.clear)(&staging);
        let dataset = self.names.layer(&layer);
        self.destroy_if_there(&dataset)?;
        self.zfs(&self.names.create_layer(&layer))?;
        (self.tools.copy)(path, &dataset, &staging)?;
        self.zfs(&self.names.snapshot(&layer))?;
        self.is_ready(&layer)?;
        info!("roots of {} are clones from now on", path.display());
        self.fill(&self.kind(layer, disk))
    }

    /// Takes note of a layer with what is in it.
    fn is_ready(&self, layer: &Layer) -> Result<(), Error> {
        let size = self.found()?.ready.get(layer).copied();
        let size = size.ok_or_else(|| {
            Error::Unsupported(format!("{} has no snapshot", self.names.layer(layer)))
        })?;
        self.state.lock().ready.insert(layer.clone(), size);
        Ok(())
    }

    /// What is left of it on error is the layer, and the sandbox's moment `at`.
    pub(super) fn copy_clone(
        &self,
        leaf: &str,
        layer: &Layer,
        at: &str,
        is_enough: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        for arguments in self.names.copy_clone(leaf, layer, at) {
            if is_enough() {
                return Err(Error::BrokenOff("the copy of a dataset"));
            }
            self.zfs(&arguments)?;
        }
        self.is_ready(layer)
    }

    /// Of a layer that nobody needs. Kept while sandboxes are made of it: only they are clones
    /// then, as those that were ready have been destroyed before.
    fn forget(&self, layer: &Layer) -> Result<(), Error> {
        for (_, leaves) in self.take_clones(layer) {
            for leaf in leaves {
                self.destroy_if_there(&self.names.clone(&leaf))?;
            }
        }
        let dataset = self.names.layer(layer);
        match self.destroy_if_there(&dataset)? {
            true => drop(self.state.lock().forgotten.remove(layer)),
            false if self.state.lock().forgotten.insert(layer.clone()) => {
                info!("dataset {dataset} is kept for sandboxes made of it");
            }
            false => {}
        }
        Ok(())
    }

    fn take_clones(&self, layer: &Layer) -> Vec<(Kind, Vec<String>)> {
        let mut state = self.state.lock();
        state.clones.extract_if(|kind, _| kind.layer == *layer).collect()
    }

    fn fill(&self, kind: &Kind) -> Result<(), Error> {
        loop {
            {
                let state = self.state.lock();
                let enough = state.clones.get(kind).is_some_and(|leaves| leaves.len() >= READY);
                // It may have been given up meanwhile.
                if enough || !state.ready.contains_key(&kind.layer) {
                    return Ok(());
                }
            }
            let leaf = SandboxId::random().to_string();
            self.zfs(&self.names.clone_of(&kind.layer, &leaf, kind.most))?;
            self.state.lock().clones.entry(kind.clone()).or_default().push(leaf);
        }
    }

    fn destroy_clone(&self, leaf: &str) -> Result<(), Error> {
        if self.destroy_if_there(&self.names.clone(leaf))? {
            self.claims.remove(&Of::Gone(leaf.to_owned()))?;
        }
        // What was kept for it may go now.
        let forgotten: Vec<Layer> = self.state.lock().forgotten.iter().cloned().collect();
        forgotten.iter().try_for_each(|layer| self.forget(layer))
    }

    fn sweep(&self) -> Result<(), Error> {
        for of in self.claims.all()? {
            let Of::Kept(id) = of else { continue };
            if self.sandboxes.join(id.to_string()).exists() {
                continue;
            }
            if let Some(Claim { leaf, .. }) = self.claims.read(&of)? {
                self.claims.rename(&of, &Of::Gone(leaf.clone()))?;
                self.destroy_clone(&leaf)?;
            }
        }
        Ok(())
    }

    /// With its snapshots. What else needs one of those is promoted, so that it has them; but not
    /// what was made of a layer, and then the answer is no.
    fn destroy_if_there(&self, dataset: &str) -> Result<bool, Error> {
        for _ in 0..PROMOTIONS {
            match self.zfs(&self.names.destroy(dataset)) {
                Ok(_) => return Ok(true),
                Err(error) if zfs_names::says_missing(&error.to_string()) => return Ok(true),
                Err(error) if zfs_names::says_cloned(&error.to_string()) => {
                    match self.found()?.in_the_way_of(dataset) {
                        Some(InTheWay::Promotable(clone)) => {
                            self.zfs(&self.names.promote(&clone))?;
                        }
                        Some(InTheWay::Clones) => return Ok(false),
                        None => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unsupported(format!("too many clones in the way of {dataset}")))
    }

    pub(super) fn take_ready(&self, kind: &Kind) -> Option<String> {
        let mut state = self.state.lock();
        let leaf = state.clones.get_mut(kind)?.pop()?;
        state.taken.insert(leaf.clone());
        Some(leaf)
    }

    pub(super) fn size(&self, layer: &Layer) -> u64 {
        self.state.lock().ready.get(layer).copied().unwrap_or(0)
    }

    /// Of a layer and what a sandbox may have beside it.
    pub(super) fn kind(&self, layer: Layer, disk: Option<u64>) -> Kind {
        let most = disk.map(|bytes| self.size(&layer).saturating_add(bytes));
        Kind { layer, most }
    }

    pub(super) fn unclaimed(&self, id: SandboxId) -> Error {
        let claims = self.claims.directory().display();
        Error::Unsupported(format!("sandbox {id} has no file in {claims}"))
    }

    fn found(&self) -> Result<Found, Error> {
        Ok(self.names.read_list(&self.zfs(&self.names.list())?))
    }

    pub(super) fn zfs(&self, arguments: &Arguments) -> Result<String, Error> {
        (self.tools.zfs)(arguments)
    }
}
