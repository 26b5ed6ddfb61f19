//! `sandbox.json`: all a restarted gateway needs to go on with a sandbox.
//!
//! Written beside and renamed, so that a reader sees one whole state or another. Brought to the
//! disk only where it says that a sandbox's files are there, which counts while there is a
//! [`claim`]: any other that a power failure takes is that of a sandbox the same failure took.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    BatchId, Error, Phase, PoolId, Reason, SandboxId, Tenant, claim,
    layers::{Kept, PauseMode},
    life::{Moment, Pause},
    snapshots,
};
use crate::{
    backend::NetworkMode,
    events::Tariff,
    limits::Limits,
    network::{Ingress, NetworkPolicy},
    template::Template,
};

const NAME: &str = "sandbox.json";
/// What it is called once the sandbox has ended, with the reason's code at the end, and when that
/// was, in milliseconds since the epoch.
const ENDED: &str = "ended.";
/// Raised when an older gateway would misread what is written.
const VERSION: u32 = 6;
/// From when there were limits beyond CPUs, memory, processes and disk.
const LIMITS: u32 = 6;
/// From when a sandbox could be kept from some of the network, and its ports from some clients.
const FENCES: u32 = 5;
/// From when there were tenants: before, anybody's key let into whatever was there.
const TENANTS: u32 = 4;
/// From when a pause could keep files alone.
const FILES: u32 = 3;
/// From when there were pauses, all of them with memory.
const PAUSES: u32 = 2;
/// The oldest that is still understood: before there were pauses.
const OLDEST: u32 = 1;
/// A record is written from one request body of bounded size; a larger file is none of ours.
const MAX_BYTES: u64 = 16 << 20;

/// What stays as it is for a sandbox's whole life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub id: SandboxId,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Tenant::is_default")]
    pub tenant: Tenant,
    /// With the layers it was made from, whatever its name means later.
    pub template: Template,
    pub limits: Limits,
    /// Of sandboxes that did not say, when it was made.
    pub network: NetworkMode,
    /// Who may reach it.
    #[serde(default)]
    pub ingress: Ingress,
    /// To be shown by whoever wants to reach it, where not everybody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_token: Option<String>,
    /// What its clients said of it then; [`Sandbox::metadata`](super::Sandbox::metadata) is as
    /// they have changed it.
    pub metadata: BTreeMap<String, String>,
    pub env_vars: BTreeMap<String, String>,
    pub started_at: DateTime<Utc>,
    pub envd_token: String,
    /// It was ready before it was asked for.
    #[serde(default)]
    pub from_pool: bool,
    /// Of which pool, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolId>,
    /// Which it was made with others in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// At its deadline it is paused rather than ended.
    #[serde(default)]
    pub auto_pause: bool,
    /// Whoever sends it something while it is paused wakes it.
    #[serde(default)]
    pub auto_resume: bool,
    /// A pause at its deadline keeps its files alone.
    #[serde(default)]
    pub auto_pause_filesystem: bool,
    /// What it was made for (seconds), and is resumed for when woken.
    #[serde(default)]
    pub timeout: u64,
    /// What it costs for its whole life, whatever others cost later.
    #[serde(default, skip_serializing_if = "Tariff::is_free")]
    pub tariff: Tariff,
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
    /// For how long it was paused before that (milliseconds).
    #[serde(default, skip_serializing_if = "is_zero")]
    stood: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused_at: Option<DateTime<Utc>>,
    /// Of a pause; its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    kept: Option<Kept>,
    /// The run of the kernel that it was written under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
    /// What it may reach.
    #[serde(flatten)]
    pub(super) policy: NetworkPolicy,
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
    used.extend(snapshots::layers_in_use(data_dir));
    Ok(used)
}

impl Record {
    /// One that is about to be paused or resumed is written as running: until its client has been
    /// told otherwise, that is what the next gateway makes of it.
    ///
    /// One without processes stays paused until it has some again: its files outlive a gateway that
    /// could not give it any.
    pub(super) fn new(
        facts: Facts,
        now: &Moment,
        kept: Option<Kept>,
        boot: Option<String>,
    ) -> Self {
        let files = kept.as_ref().is_some_and(|kept| kept.mode == PauseMode::Filesystem);
        let stands = now.phase == Phase::Paused || (files && now.phase == Phase::Resuming);
        let pause = now.paused.filter(|_| stands);
        let pauses = pause.is_some() || facts.auto_pause || facts.auto_resume;
        Self {
            // A gateway of before would take what is paused for something else, and only that.
            version: match pauses {
                _ if facts.limits.are_of_today() => LIMITS,
                _ if facts.ingress != Ingress::default() => FENCES,
                _ if !facts.tenant.is_default() => TENANTS,
                _ if facts.auto_pause_filesystem || (stands && files) => FILES,
                true => PAUSES,
                false => OLDEST,
            },
            kept: kept.filter(|_| pause.is_some()),
            boot,
            protocol: envd::wire::PROTOCOL,
            deadline: now.deadline,
            runs_since: Some(now.runs_since).filter(|since| *since != facts.started_at),
            stood: if stands { now.stood } else { now.stood_by_now() },
            paused_at: pause.map(|pause| pause.at),
            reason: pause.map(|pause| pause.reason.code().to_owned()),
            policy: NetworkPolicy::default(),
            facts,
        }
    }

    /// The same, of one that may reach no more than that.
    pub(super) fn under(mut self, policy: NetworkPolicy) -> Self {
        let default = self.facts.network;
        if policy.has_lists() || policy.mode(default) != default {
            self.version = self.version.max(FENCES);
        }
        self.policy = policy;
        self
    }

    pub(super) fn moment(&self) -> Moment {
        let reason = self.reason.as_deref().and_then(Reason::of_code).unwrap_or(Reason::User);
        let runs_since = self.runs_since.unwrap_or(self.facts.started_at);
        let paused = self.paused_at.map(|at| Pause { at, reason });
        Moment {
            phase: if paused.is_some() { Phase::Paused } else { Phase::Running },
            reason: paused.map(|pause| pause.reason),
            since: self.paused_at.unwrap_or(runs_since),
            deadline: self.deadline,
            runs_since,
            paused,
            stood: self.stood,
        }
    }

    /// Whether the envd that runs in it can be spoken with.
    pub(super) fn is_spoken_with(&self) -> bool {
        self.protocol == envd::wire::PROTOCOL
    }

    /// What it keeps, when it is paused.
    pub(super) fn kept(&self) -> Option<Kept> {
        // Of a gateway that knew one way only.
        let full = || Kept::new(PauseMode::Full);
        self.paused_at.map(|_| self.kept.clone().unwrap_or_else(full))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(NAME);
        let failed = |source| Error::io("cannot write", &path, source);
        // It replaces one of those that have to be whole after a power failure.
        let whole = self.kept.as_ref().is_some_and(|kept| kept.durable_at.is_some());
        put(&path, &serde_json::to_vec(self).map_err(|e| failed(e.into()))?, whole).map(drop)
    }

    /// Brings what was written last to the disk. Blocks for as long as that takes.
    pub(super) fn sync(dir: &Path) -> Result<(), Error> {
        let path = dir.join(NAME);
        // And that it has its name, and its directory one.
        for path in [Some(path.as_path()), Some(dir), dir.parent()].into_iter().flatten() {
            let synced = File::open(path).and_then(|it| it.sync_all());
            synced.map_err(|source| Error::io("cannot flush", path, source))?;
        }
        Ok(())
    }

    /// From here on nobody goes on with the sandbox of that directory; a gateway that starts
    /// before the directory is gone finds why by [`Self::of_ended`]. One that is not there is a
    /// success.
    pub(super) async fn remove(
        dir: &Path,
        why: Option<(Reason, DateTime<Utc>)>,
    ) -> Result<(), Error> {
        let path = dir.join(NAME);
        let removed = match why {
            Some((reason, at)) => {
                let (code, at) = (reason.code(), at.timestamp_millis());
                let kept = dir.join(format!("{ENDED}{code}.{at}"));
                tokio::fs::rename(&path, kept).await
            }
            None => tokio::fs::remove_file(&path).await,
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("cannot delete", path, e))
            }
            _ => Ok(()),
        }
    }

    /// What a sandbox was that has ended and is not removed yet, why it ended, and when, where
    /// that was written down.
    pub(super) fn of_ended(dir: &Path) -> Option<(Self, Reason, Option<DateTime<Utc>>)> {
        fs::read_dir(dir).ok()?.find_map(|entry| {
            let name = entry.ok()?.file_name();
            let why = name.to_str()?.strip_prefix(ENDED)?;
            let (code, at) = why.split_once('.').unwrap_or((why, ""));
            let reason = Reason::of_code(code)?;
            let at = at.parse().ok().and_then(DateTime::from_timestamp_millis);
            Some((Self::read_from(&dir.join(&name)).ok()?, reason, at))
        })
    }

    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let mut record = Self::read_from(&dir.join(NAME))?;
        if let Some(kept) = &mut record.kept
            && let Some(at) = kept.durable_at
            && !claim::stands(dir, at)?
        {
            kept.durable_at = None;
        }
        Ok(record)
    }

    fn read_from(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Versions {
            version: u32,
        }

        let failed = |source| Error::io("cannot read", path, source);
        let refused = |text: String| failed(io::Error::new(io::ErrorKind::InvalidData, text));
        let size = fs::symlink_metadata(path).map_err(failed)?.len();
        if size > MAX_BYTES {
            return Err(refused(format!("{size} bytes are too many")));
        }
        let json = fs::read(path).map_err(failed)?;
        let versions: Versions =
            serde_json::from_slice(&json).map_err(|e| refused(e.to_string()))?;
        if !(OLDEST..=VERSION).contains(&versions.version) {
            let version = versions.version;
            return Err(refused(format!(
                "written as version {version}, this gateway understands {OLDEST} to {VERSION}"
            )));
        }
        serde_json::from_slice(&json).map_err(|e| refused(e.to_string()))
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Writes a file beside and renames it; not before it is on the disk, where after a power failure
/// it has to be `whole` or the one before.
pub(super) fn put(path: &Path, text: &[u8], whole: bool) -> Result<File, Error> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let beside = path.with_file_name(name);
    let failed = |source| Error::io("cannot write", path, source);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(text).map_err(failed)?;
    if whole {
        file.sync_all().map_err(failed)?;
    }
    fs::rename(&beside, path).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing;

    fn record(phase: Phase) -> Record {
        let facts = testing::facts();
        let mut moment = Moment::pending(facts.started_at);
        moment.phase = phase;
        moment.paused = Some(Pause { at: Utc::now(), reason: Reason::Idle });
        Record::new(facts, &moment, Some(Kept::new(PauseMode::Full)), Some("a".into()))
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
