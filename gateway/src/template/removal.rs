//! Taking templates away: the name first, then the layers that nothing needs any more.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{
    record::Record,
    store::{Error, Store},
    tree::{self, failed},
};

impl Store {
    /// Removes a template. `used` are the layers of each sandbox there is; no gateway may be making
    /// more of them meanwhile. Layers that no template and no sandbox needs go too. Blocks.
    pub fn remove(&self, name: &str, used: &[Vec<PathBuf>]) -> Result<(), Error> {
        let shared = &self.shared;
        let Some(_lock) = shared.try_lock()? else {
            return Err(Error::Building(shared.dir.clone()));
        };
        shared.load()?;
        let all = self.available();
        let Some(found) = all.iter().find(|found| found.template.id == name) else {
            return Err(Error::Unknown(name.to_owned()));
        };
        let own = &found.template.layers[0];
        let above = all.iter().find(|other| other.template.layers[1..].contains(own));
        if let Some(above) = above {
            let by = above.template.id.clone();
            return Err(Error::Below { name: name.to_owned(), by });
        }
        let count = used.iter().filter(|layers| layers.contains(own)).count();
        if count > 0 {
            return Err(Error::InUse { name: name.to_owned(), count });
        }
        let path = shared.record(name);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        shared.load()?;
        self.remove_unused_layers(used)
    }

    fn remove_unused_layers(&self, used: &[Vec<PathBuf>]) -> Result<(), Error> {
        let shared = &self.shared;
        let mut kept: BTreeSet<PathBuf> = used.iter().flatten().cloned().collect();
        for found in self.available() {
            let record = Record::read(&shared.record(&found.template.id))?;
            kept.extend(record.layers.iter().map(|digest| shared.layer(digest)));
        }
        let layers = shared.dir.join("layers");
        for entry in fs::read_dir(&layers).map_err(failed("list", &layers))? {
            let layer = entry.map_err(failed("list", &layers))?.path();
            if !kept.contains(&layer) {
                tracing::info!(layer = %layer.display(), "removing a layer that nothing needs");
                // What is half removed must not keep the name of its content.
                let leaving = shared.dir.join("build-removed");
                tree::remove(&leaving)?;
                fs::rename(&layer, &leaving).map_err(failed("rename", &layer))?;
                tree::remove(&leaving)?;
            }
        }
        Ok(())
    }
}
