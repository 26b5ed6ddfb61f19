//! `<name>.json`: what a template's name means at present.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Template, kernels,
    tree::{self, failed},
};
use crate::limits::Limits;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] tree::Error),
    #[error("template record {path}: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
}

/// In place of a recipe: it was made from a root file system that somebody named.
pub(super) const IMPORTED: &str = "imported";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Digests, the topmost first.
    pub(super) layers: Vec<String>,
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) user: String,
    #[serde(default)]
    pub(super) workdir: Option<String>,
    /// The recipe it was built by.
    pub(super) recipe: String,
    /// The layers of what it was built on, where its own contain them (FreeBSD).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) built_on: Vec<String>,
    /// The version of Node in it, if any.
    pub(super) node: Option<String>,
    pub(super) built_at: DateTime<Utc>,
}

impl Record {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read(path).map_err(failed("read", path))?;
        serde_json::from_slice(&text)
            .map_err(|source| Error::Json { path: path.to_owned(), source })
    }

    /// Writes it through to the disk, for a rename to its place.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Json { path: path.to_owned(), source })?;
        fs::write(path, text).map_err(failed("write", path))?;
        File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))?;
        Ok(())
    }

    /// The layers of the template that it was built on.
    pub(super) fn foundation(&self) -> &[String] {
        match self.layers.get(1..) {
            Some(below) if self.built_on.is_empty() => below,
            _ => &self.built_on,
        }
    }

    /// `None` when it has no layer, or one is missing: as good as no template.
    pub(super) fn template(self, name: &str, layer: impl Fn(&str) -> PathBuf) -> Option<Template> {
        if self.layers.is_empty() {
            tracing::warn!(template = name, "there are no layers");
            return None;
        }
        let mut layers = Vec::with_capacity(self.layers.len());
        for digest in &self.layers {
            let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
            let layer = layer(digest);
            if !is_digest || !layer.is_dir() {
                tracing::warn!(template = name, layer = %layer.display(), "layer is missing");
                return None;
            }
            layers.push(layer);
        }
        Some(Template {
            id: name.to_owned(),
            kernels: kernels::any(&layers),
            layers,
            limits: self.limits,
            env: self.env,
            user: self.user,
            workdir: self.workdir,
        })
    }
}
