//! Watches whose events a client comes to fetch.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use connectrpc::ConnectError;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::Watch;
use crate::connect::proto::filesystem::FilesystemEvent;

/// Events kept between two visits.
const CAPACITY: usize = 10_000;

#[derive(Default)]
pub(in super::super) struct Polled {
    watchers: Mutex<Watchers>,
}

#[derive(Default)]
struct Watchers {
    last: u64,
    by_id: HashMap<String, Watcher>,
}

struct Watcher {
    kept: Arc<Mutex<Kept>>,
    pump: AbortHandle,
}

/// Aborts its pump, and with it ends the watch.
impl Drop for Watcher {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

#[derive(Default)]
struct Kept {
    events: VecDeque<FilesystemEvent>,
    /// Why no more come; told when the events before it were fetched.
    end: Option<ConnectError>,
}

impl Polled {
    pub(in super::super) fn add(&self, watch: Watch) -> String {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let pump = tokio::spawn(pump(watch, kept.clone())).abort_handle();
        let mut watchers = self.watchers.lock();
        watchers.last += 1;
        let id = format!("w{}", watchers.last);
        watchers.by_id.insert(id.clone(), Watcher { kept, pump });
        id
    }

    pub(in super::super) fn drain(&self, id: &str) -> Result<Vec<FilesystemEvent>, ConnectError> {
        let watchers = self.watchers.lock();
        let watcher = watchers.by_id.get(id).ok_or_else(|| unknown(id))?;
        let mut kept = watcher.kept.lock();
        match &kept.end {
            Some(end) if kept.events.is_empty() => Err(end.clone()),
            _ => Ok(kept.events.drain(..).collect()),
        }
    }

    pub(in super::super) fn remove(&self, id: &str) -> Result<(), ConnectError> {
        let removed = self.watchers.lock().by_id.remove(id);
        removed.map(drop).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> ConnectError {
    ConnectError::not_found(format!("watcher with id {id} not found"))
}

async fn pump(mut watch: Watch, kept: Arc<Mutex<Kept>>) {
    while let Some(batch) = watch.next(None).await {
        let mut kept = kept.lock();
        kept.end = batch.end.map(ConnectError::from);
        if kept.events.len() + batch.events.len() > CAPACITY {
            let text = format!("events were lost: more than {CAPACITY} were not fetched");
            kept.end = Some(ConnectError::resource_exhausted(text));
        } else {
            kept.events.extend(batch.events);
        }
        if kept.end.is_some() {
            return;
        }
    }
}
