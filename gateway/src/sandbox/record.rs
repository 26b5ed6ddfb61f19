//! `sandbox.json`: all a restarted gateway needs to go on with a sandbox.
//!
//! Written beside and renamed, so that a reader sees one whole state or another. Never synced:
//! a record that a power failure takes is that of a sandbox the same failure took.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Error, Phase, SandboxId, life::Moment};
use crate::{
    backend::{Limits, NetworkMode},
    template::Template,
};

const NAME: &str = "sandbox.json";
/// Raised when an older gateway would misread what is written.
const VERSION: u32 = 2;
/// The oldest that is still understood: before there were pauses.
const OLDEST: u32 = 1;
/// A record is written from one request body of bounded size; a larger file is none of ours.
const MAX_BYTES: u64 = 16 << 20;

/// What stays as it is for a sandbox's whole life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub id: SandboxId,
    /// With the layers it was made from, whatever its name means later.
    pub template: Template,
    pub limits: Limits,
    pub network: NetworkMode,
    /// As the client asked; `None` when it did not say.
    pub allow_internet_access: Option<bool>,
    pub metadata: BTreeMap<String, String>,
    pub env_vars: BTreeMap<String, String>,
    pub started_at: DateTime<Utc>,
    pub envd_token: String,
    /// It was ready before it was asked for.
    #[serde(default)]
    pub from_pool: bool,
    /// At its deadline it is paused rather than ended.
    #[serde(default)]
    pub auto_pause: bool,
    /// Whoever sends it something while it is paused wakes it.
    #[serde(default)]
    pub auto_resume: bool,
    /// What it was made for (seconds), and is resumed for when woken.
    #[serde(default)]
    pub timeout: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// Of the envd that runs in it.
    protocol: u32,
    deadline: DateTime<Utc>,
    /// Left out where that is its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    runs_since: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub(super) facts: Facts,
}

/// The layers that each sandbox of a data directory was made from. For when no gateway runs.
pub fn layers_in_use(data_dir: &Path) -> Result<Vec<Vec<PathBuf>>, Error> {
    let home = data_dir.join("sandboxes");
    let failed = |source| Error::io("cannot read", &home, source);
    let mut used = Vec::new();
    for entry in fs::read_dir(&home).map_err(failed)? {
        // One that cannot be read is removed by the next gateway.
        if let Ok(record) = Record::read(&entry.map_err(failed)?.path()) {
            used.push(record.facts.template.layers);
        }
    }
    Ok(used)
}

impl Record {
    /// One that is about to be paused or resumed is written as running: until its client has been
    /// told otherwise, that is what the next gateway makes of it.
    pub(super) fn new(facts: Facts, now: &Moment) -> Self {
        let pauses = now.phase == Phase::Paused || facts.auto_pause || facts.auto_resume;
        Self {
            // A gateway of before would take what is paused for something else, and only that.
            version: if pauses { VERSION } else { OLDEST },
            protocol: envd::wire::PROTOCOL,
            deadline: now.deadline,
            runs_since: Some(now.runs_since).filter(|since| *since != facts.started_at),
            paused_at: now.paused_at.filter(|_| now.phase == Phase::Paused),
            facts,
        }
    }

    pub(super) fn moment(&self) -> Moment {
        Moment {
            phase: if self.paused_at.is_some() { Phase::Paused } else { Phase::Running },
            deadline: self.deadline,
            runs_since: self.runs_since.unwrap_or(self.facts.started_at),
            paused_at: self.paused_at,
        }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(NAME);
        let beside = dir.join(".sandbox.json");
        let failed = |source| Error::io("cannot write", &path, source);
        let json = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed)?;
        file.write_all(&json).map_err(failed)?;
        fs::rename(&beside, &path).map_err(failed)
    }

    /// From here on nobody goes on with the sandbox of that directory. One that is not there is a
    /// success.
    pub(super) async fn remove(dir: &Path) -> Result<(), Error> {
        let path = dir.join(NAME);
        match tokio::fs::remove_file(&path).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("cannot delete", path, e))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Versions {
            version: u32,
            protocol: u32,
        }

        let path = dir.join(NAME);
        let failed = |source| Error::io("cannot read", &path, source);
        let refused = |text: String| failed(io::Error::new(io::ErrorKind::InvalidData, text));
        let size = fs::symlink_metadata(&path).map_err(failed)?.len();
        if size > MAX_BYTES {
            return Err(refused(format!("{size} bytes are too many")));
        }
        let json = fs::read(&path).map_err(failed)?;
        let versions: Versions =
            serde_json::from_slice(&json).map_err(|e| refused(e.to_string()))?;
        if !(OLDEST..=VERSION).contains(&versions.version)
            || versions.protocol != envd::wire::PROTOCOL
        {
            return Err(refused(format!(
                "written as version {} for envd protocol {}, this gateway speaks {VERSION} and {}",
                versions.version,
                versions.protocol,
                envd::wire::PROTOCOL
            )));
        }
        serde_json::from_slice(&json).map_err(|e| refused(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing;

    fn record(phase: Phase) -> Record {
        let facts = testing::facts();
        let runs_since = facts.started_at;
        let paused_at = Some(Utc::now());
        Record::new(facts, &Moment { phase, deadline: Utc::now(), runs_since, paused_at })
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        for phase in [Phase::Running, Phase::Paused] {
            let record = record(phase);
            record.write(dir.path()).unwrap();
            assert_eq!(Record::read(dir.path()).unwrap(), record);
            assert_eq!(record.moment().phase, phase);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_is_only_on_its_way_is_written_as_running() {
        for phase in [Phase::Pausing, Phase::Resuming] {
            assert_eq!(record(phase).moment().phase, Phase::Running);
        }
    }

    #[test]
    fn a_record_of_before_there_were_pauses_is_one_of_a_running_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let new = record(Phase::Running);
        let mut old = serde_json::to_value(&new).unwrap();
        for name in ["auto_pause", "auto_resume", "timeout"] {
            assert!(old.as_object_mut().unwrap().remove(name).is_some());
        }
        old["version"] = OLDEST.into();
        fs::write(dir.path().join(NAME), old.to_string()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap().moment(), new.moment());
    }

    #[test]
    fn records_of_another_version_and_torn_ones_are_refused_with_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let mut record = record(Phase::Running);
        record.version = 99;
        record.write(dir.path()).unwrap();
        let error = Record::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("version 99") && error.contains("sandbox.json"), "{error}");

        fs::write(&path, b"{\"version\":1,").unwrap();
        assert!(Record::read(dir.path()).is_err());
        fs::remove_file(&path).unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
