//! Who had the gateway do what: one line of JSON for each request that changes something.
//!
//! Nobody waits for a line to be written. It is put into a [queue](mod@queue) of a bounded length,
//! which one thread takes it from; what finds no room is lost, counted, and said to be so where it
//! is missing. Each tenant has a [trail](mod@trail) of its own, so that none can roll another's
//! away, however much it has the gateway do. Lines are only ever appended, and never brought to the
//! disk by force; a file that has become large is put aside, and the oldest of those is deleted. No
//! secret is ever in a line.

mod queue;
mod trail;

use std::{
    collections::HashMap,
    fs::DirBuilder,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::{sync::oneshot, time::timeout};

use queue::{Batch, Queue};
use trail::{Room, Trail};

use crate::{metrics::Metrics, sandbox::Tenant};

/// Lines that may wait to be written.
const QUEUE: usize = 4096;
/// Written at once.
const BATCH: usize = 256;
/// The longest text that came with a request (bytes): what a path names.
const LONGEST: usize = 128;
/// Files that are open at once.
const OPEN: usize = 64;

/// Of each tenant.
const ROOM: Room = Room { size: 16 << 20, kept: 8 };

/// One request that changes something, or was to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: DateTime<Utc>,
    /// The id of the key that it came with, if that has one.
    pub key: Option<String>,
    pub tenant: Tenant,
    pub source: Option<SocketAddr>,
    pub method: &'static str,
    /// As the document has it.
    pub route: String,
    /// What its path names: a sandbox, a template.
    pub object: Option<String>,
    /// What has come of it: sandboxes, a snapshot.
    pub made: Vec<String>,
    /// Of HTTP; 0 where the client had gone before it was answered.
    pub status: u16,
    /// How many they were: those like the first of a second are one.
    pub times: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<SocketAddr>,
    method: &'a str,
    route: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    made: &'a [String],
    status: u16,
    #[serde(skip_serializing_if = "is_one")]
    times: u64,
}

fn is_one(times: &u64) -> bool {
    *times == 1
}

#[derive(Serialize)]
struct Lost {
    at: String,
    lost: u64,
}

/// Goes with an answer: what has come of the request, by the names it has in lines.
#[derive(Clone, Debug)]
pub struct Made(pub Vec<String>);

/// Where lines are put; clones share it.
#[derive(Clone)]
pub struct Audit(Arc<Way>);

/// To the writer, who ends with the last clone.
struct Way {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Audit {
    /// Writes to `<data-dir>/audit/<tenant>.jsonl` from here on.
    pub fn open(data_dir: &Path, metrics: &Arc<Metrics>) -> io::Result<Self> {
        Self::open_with(&data_dir.join("audit"), metrics, ROOM)
    }

    fn open_with(dir: &Path, metrics: &Arc<Metrics>, room: Room) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let (queue, metrics) = (Arc::new(Queue::new(QUEUE)), metrics.clone());
        let (of, told) = (queue.clone(), metrics.clone());
        let (dir, trails) = (dir.to_owned(), HashMap::new());
        let writer = Writer { dir, room, queue: of, metrics: told, trails, gaps: HashMap::new() };
        thread::Builder::new().name("audit".into()).spawn(move || writer.write_all())?;
        Ok(Self(Arc::new(Way { queue, metrics })))
    }

    pub fn note(&self, mut entry: Entry) {
        if let Some(object) = entry.object.as_mut().filter(|object| object.len() > LONGEST) {
            object.truncate(object.floor_char_boundary(LONGEST));
        }
        let lost = self.0.queue.put(entry, Instant::now());
        self.0.metrics.audit_lost(lost);
    }

    /// Returns when all that was noted is written, or after so long.
    pub async fn settle(&self, patience: Duration) {
        let (sender, written) = oneshot::channel();
        self.0.queue.settle(sender);
        let _ = timeout(patience, written).await;
    }
}

struct Writer {
    dir: PathBuf,
    room: Room,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    /// Those that were written to of late.
    trails: HashMap<Tenant, Trail>,
    /// Lines that could not be written, of those to whom that has been said in the log, and that
    /// their files do not tell of yet.
    gaps: HashMap<Tenant, u64>,
}

/// What one tenant's trail is to have next.
#[derive(Default)]
struct Next {
    text: String,
    /// So many are in it,
    lines: u64,
    /// and so many are not.
    lost: u64,
}

impl Writer {
    /// Until nobody is left who could note anything.
    fn write_all(mut self) {
        while let Some(Batch { entries, lost, settling }) = self.queue.take(BATCH) {
            let mut next: HashMap<Tenant, Next> = HashMap::new();
            for entry in &entries {
                let next = next.entry(entry.tenant.clone()).or_default();
                put(&mut next.text, &entry.line());
                next.lines += entry.times;
            }
            for (tenant, lost) in lost {
                next.entry(tenant).or_default().lost += lost;
            }
            for (tenant, next) in next {
                self.write(tenant, next);
            }
            for done in settling {
                // Whoever it is for may have gone.
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, tenant: Tenant, Next { mut text, lines, lost }: Next) {
        let before = self.gaps.get(&tenant).copied();
        let lost = lost + before.unwrap_or(0);
        if lost > 0 {
            put(&mut text, &Lost { at: time(Utc::now()), lost });
        }
        match self.put(&tenant, &text) {
            Ok(()) if before.is_some() => {
                self.gaps.remove(&tenant);
                tracing::info!(tenant = tenant.name(), "the audit trail goes on");
            }
            Ok(()) => {}
            Err(error) => {
                self.metrics.audit_lost(lines);
                if before.is_none() {
                    let dir = self.dir.display();
                    tracing::error!(
                        tenant = tenant.name(),
                        "the audit trail has gaps: {dir}: {error}"
                    );
                }
                self.gaps.insert(tenant, lost + lines);
            }
        }
    }

    fn put(&mut self, tenant: &Tenant, text: &str) -> io::Result<()> {
        if !self.trails.contains_key(tenant) {
            if self.trails.len() >= OPEN {
                self.trails.clear();
            }
            let path = self.dir.join(format!("{}.jsonl", tenant.name()));
            self.trails.insert(tenant.clone(), Trail::open(path, self.room)?);
        }
        self.trails.get_mut(tenant).map_or(Ok(()), |trail| trail.put(text))
    }
}

fn put(text: &mut String, line: &impl Serialize) {
    *text += &serde_json::to_string(line).expect("strings and numbers are JSON");
    text.push('\n');
}

impl Entry {
    fn line(&self) -> Line<'_> {
        Line {
            at: time(self.at),
            key: self.key.as_deref(),
            tenant: self.tenant.name(),
            source: self.source,
            method: self.method,
            route: &self.route,
            object: self.object.as_deref(),
            made: &self.made,
            status: self.status,
            times: self.times,
        }
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    pub(super) fn entry(status: u16) -> Entry {
        Entry {
            at: Utc::now(),
            key: Some("key-1".into()),
            tenant: "acme".parse().unwrap(),
            source: Some("192.0.2.1:5".parse().unwrap()),
            method: "POST",
            route: "/sandboxes/{id}/fork".into(),
            object: Some("a\"b\n".into()),
            made: vec!["x".into()],
            status,
            times: 1,
        }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn each_entry_is_a_line_behind_those_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit/acme.jsonl");
        for n in [200, 404] {
            let audit = Audit::open(dir.path(), &Arc::default()).unwrap();
            audit.note(entry(n));
            audit.note(Entry { key: None, source: None, object: None, made: vec![], ..entry(n) });
            audit.settle(LONG).await;
        }
        let lines = lines(&path);
        let all: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
        assert_eq!(all, [200, 200, 404, 404]);
        assert_eq!((&lines[0]["object"], &lines[0]["made"][0]), (&"a\"b\n".into(), &"x".into()));
        let mut names: Vec<_> = lines[1].as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["at", "method", "route", "status", "tenant"]);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn what_a_path_names_is_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open_with(dir.path(), &Arc::default(), ROOM).unwrap();
        audit.note(Entry { object: Some("ä".repeat(500)), ..entry(204) });
        audit.settle(LONG).await;
        let lines = lines(&dir.path().join("acme.jsonl"));
        assert_eq!(lines[0]["object"].as_str().unwrap().len(), LONGEST);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted_and_told_where_it_is_missing_and_to_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::default();
        let room = Room { size: 1, kept: 1 };
        let audit = Audit::open_with(dir.path(), &metrics, room).unwrap();
        audit.note(entry(1));
        audit.settle(LONG).await;
        // Nothing can be put aside.
        let aside = dir.path().join("acme.jsonl.1");
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("x"), "").unwrap();
        let other = || Entry { tenant: "other".parse().unwrap(), ..entry(2) };
        for _ in 0..3 {
            audit.note(entry(2));
            audit.note(other());
        }
        audit.settle(LONG).await;
        assert_eq!(metrics.audit_losses(), 3);
        fs::remove_dir_all(&aside).unwrap();
        audit.note(entry(3));
        audit.settle(LONG).await;
        let acmes = lines(&dir.path().join("acme.jsonl"));
        assert_eq!((&acmes[0]["status"], &acmes[1]["lost"]), (&3.into(), &3.into()));
        assert!(lines(&dir.path().join("other.jsonl")).iter().all(|it| it["status"] == 2));
    }

    #[tokio::test]
    async fn however_much_a_tenant_has_done_the_trail_of_another_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::default();
        let audit = Audit::open_with(dir.path(), &metrics, Room { size: 1000, kept: 1 }).unwrap();
        let quiet = Entry { tenant: "quiet".parse().unwrap(), ..entry(201) };
        audit.note(quiet.clone());
        for n in 0..200 {
            audit.note(Entry { made: vec![format!("{n}")], ..entry(201) });
            if n % 4 == 0 {
                audit.settle(LONG).await;
            }
        }
        audit.note(quiet);
        audit.settle(LONG).await;
        assert_eq!(lines(&dir.path().join("quiet.jsonl")).len(), 2);
        assert!(lines(&dir.path().join("acme.jsonl.1")).len() < 200);
    }

    #[tokio::test]
    async fn tenants_may_be_more_than_files_that_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open_with(dir.path(), &Arc::default(), ROOM).unwrap();
        for _ in 0..2 {
            for n in 0..=OPEN {
                audit.note(Entry { tenant: format!("t{n}").parse().unwrap(), ..entry(201) });
            }
            audit.settle(LONG).await;
        }
        let two = |n| lines(&dir.path().join(format!("t{n}.jsonl"))).len() == 2;
        assert!((0..=OPEN).all(two));
    }

    #[tokio::test]
    async fn a_flood_of_calls_that_are_alike_is_a_few_lines() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::default();
        let audit = Audit::open_with(dir.path(), &metrics, ROOM).unwrap();
        for _ in 0..10 * QUEUE {
            for status in [404, 204] {
                audit.note(Entry { made: Vec::new(), ..entry(status) });
            }
        }
        audit.note(entry(201));
        audit.settle(LONG).await;
        let lines = lines(&dir.path().join("acme.jsonl"));
        for status in [204, 404] {
            let these = lines.iter().filter(|line| line["status"] == status);
            let times = these.map(|line| line["times"].as_u64().unwrap_or(1)).sum::<u64>();
            assert_eq!((times, metrics.audit_losses()), (10 * QUEUE as u64, 0));
        }
        assert!(lines.len() < 200, "{}", lines.len());
        assert!(lines[0].get("times").is_none() && lines.iter().any(|it| it["status"] == 201));
    }
}
