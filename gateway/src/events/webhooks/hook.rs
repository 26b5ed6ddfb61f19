//! One webhook, and its file.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Error, deliveries::Deliveries, payload, reach::Reach};
use crate::sandbox::Tenant;

/// The longest name and secret (characters).
const LONGEST_NAME: usize = 256;
const LONGEST_SECRET: usize = 1024;
/// Types of events at most.
const MOST_EVENTS: usize = 64;
/// One is written from one request of bounded size.
const LARGEST: u64 = 1 << 20;

/// What a client says of it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Said {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) enabled: bool,
    /// Types of events: E2B's names, ours, or globs of either.
    pub(crate) events: Vec<String>,
    /// Told to nobody.
    pub(crate) signature_secret: String,
}

/// What is to be another.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) name: Option<String>,
    pub(crate) url: Option<String>,
    pub(crate) enabled: Option<bool>,
    pub(crate) events: Option<Vec<String>>,
    pub(crate) signature_secret: Option<String>,
}

pub(crate) struct Hook {
    pub(crate) id: Uuid,
    pub(crate) tenant: Tenant,
    pub(crate) created_at: DateTime<Utc>,
    said: Mutex<Said>,
    pub(crate) deliveries: Mutex<Deliveries>,
    /// It may be delivered otherwise now.
    pub(super) changed: Notify,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    id: String,
    tenant: Tenant,
    created_at: DateTime<Utc>,
    #[serde(flatten)]
    said: Said,
}

impl Change {
    pub(super) fn make(self, said: &mut Said) {
        let Self { name, url, enabled, events, signature_secret } = self;
        said.name = name.unwrap_or_else(|| said.name.clone());
        said.url = url.unwrap_or_else(|| said.url.clone());
        said.enabled = enabled.unwrap_or(said.enabled);
        said.events = events.unwrap_or_else(|| said.events.clone());
        said.signature_secret = signature_secret.unwrap_or_else(|| said.signature_secret.clone());
    }
}

impl Said {
    pub(super) fn check(&self, reach: &Reach) -> Result<(), Error> {
        let sized = |text: &str, longest| (1..=longest).contains(&text.chars().count());
        if !sized(&self.name, LONGEST_NAME) {
            return Err(Error::Invalid("name has to have 1 to 256 characters"));
        }
        if !sized(&self.signature_secret, LONGEST_SECRET) {
            return Err(Error::Invalid("signatureSecret has to have 1 to 1024 characters"));
        }
        if !(1..=MOST_EVENTS).contains(&self.events.len()) {
            return Err(Error::Invalid("events has to name 1 to 64 types of events"));
        }
        if !self.events.iter().all(|glob| payload::is_of_any(glob)) {
            return Err(Error::Invalid(
                "events names a type that there is not; types are sandbox.lifecycle.created, \
                 exec.completed and so on, or globs such as exec.*",
            ));
        }
        reach.check(&self.url).map(drop).map_err(Error::Invalid)
    }
}

impl Hook {
    pub(super) fn new(id: Uuid, tenant: Tenant, created_at: DateTime<Utc>, said: Said) -> Self {
        Self {
            id,
            tenant,
            created_at,
            said: Mutex::new(said),
            deliveries: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn said(&self) -> Said {
        self.said.lock().clone()
    }

    pub(super) fn say(&self, said: Said) {
        *self.said.lock() = said;
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        if fs::metadata(path)?.len() > LARGEST {
            return Err(io::Error::other("it is too large for a webhook"));
        }
        let File { id, tenant, created_at, said } = serde_json::from_slice(&fs::read(path)?)?;
        let id = Uuid::try_parse(&id).map_err(io::Error::other)?;
        if path.file_stem().is_none_or(|name| *name != *id.to_string()) {
            return Err(io::Error::other("its name is not its id"));
        }
        Ok(Self::new(id, tenant, created_at, said))
    }

    /// Beside, and renamed: there is one whole file or another.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let Self { id, tenant, created_at, .. } = self;
        let (tenant, said) = (tenant.clone(), self.said());
        let file = File { id: id.to_string(), tenant, created_at: *created_at, said };
        let beside = path.with_extension("new");
        let mut to =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        to.write_all(&serde_json::to_vec(&file)?)?;
        fs::rename(&beside, path)
    }
}
