//! Moving deadlines, and writing down where they went.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{Error, Sandbox, SandboxId, Sandboxes, pausing::refused};

impl Sandboxes {
    /// Sets the deadline to `timeout` from now, sooner or later than it was, but not beyond the
    /// longest life a sandbox may have since it was made or last resumed.
    ///
    /// # Errors
    /// [`Error::NotNow`] while it does not run.
    pub fn set_timeout(&self, id: SandboxId, timeout: Duration) -> Result<(), Error> {
        self.renew(id, timeout, |_, new| new).map(drop)
    }

    /// Like [`Self::set_timeout`], but never sooner than it was.
    pub fn extend(&self, id: SandboxId, timeout: Duration) -> Result<Arc<Sandbox>, Error> {
        self.renew(id, timeout, DateTime::max)
    }

    fn renew(
        &self,
        id: SandboxId,
        timeout: Duration,
        choose: fn(DateTime<Utc>, DateTime<Utc>) -> DateTime<Utc>,
    ) -> Result<Arc<Sandbox>, Error> {
        let sandbox = self.present(id)?;
        let now = Utc::now();
        let mut too_old = false;
        let renewed = sandbox.life.renew(|life| {
            let latest = after(life.runs_since, self.0.rules.max_life);
            too_old = latest <= now;
            if too_old {
                life.deadline
            } else {
                choose(life.deadline, after(now, timeout).min(latest))
            }
        });
        renewed.map_err(refused(id))?;
        if too_old {
            return Err(Error::TooOld(id));
        }
        self.0.deadlines.watch(id, &sandbox.life);
        self.record_soon(&sandbox);
        Ok(sandbox)
    }

    pub(super) async fn record(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let sandbox = sandbox.clone();
        let write = self.0.tasks.spawn_blocking(move || sandbox.save());
        write.await.map_err(|e| Error::BrokenOff(e.to_string()))?
    }

    /// Writes the record without keeping anybody waiting; many changes make one write.
    fn record_soon(&self, sandbox: &Arc<Sandbox>) {
        if sandbox.unsaved.swap(true, Ordering::AcqRel) {
            return;
        }
        let sandbox = sandbox.clone();
        self.0.tasks.spawn_blocking(move || {
            if let Err(error) = sandbox.save()
                && !sandbox.life.ended()
            {
                tracing::error!(sandbox = %sandbox.id(), "{error}");
            }
        });
    }
}

pub(super) fn after(start: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    let wait = chrono::Duration::from_std(wait).unwrap_or(chrono::Duration::MAX);
    start.checked_add_signed(wait).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Rules, testing};

    #[tokio::test]
    async fn timeouts_shorten_and_lengthen_extensions_only_lengthen_and_life_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let rules = Rules { max_life: Duration::from_secs(100), ..testing::rules() };
        let sandboxes = testing::sandboxes(dir.path(), &Arc::default(), rules);
        let tidy = sandboxes.clone();
        tokio::spawn(async move { tidy.keep_tidy().await });
        let sandbox = sandboxes.create(testing::wanted(), None).await.unwrap();
        let (id, start) = (sandbox.id(), sandbox.facts().started_at);
        let left = || (sandbox.ends_at().unwrap() - start).num_seconds();
        sandboxes.set_timeout(id, Duration::from_secs(20)).unwrap();
        assert!((19..=21).contains(&left()));
        sandboxes.extend(id, Duration::from_secs(5)).unwrap();
        assert!((19..=21).contains(&left()));
        sandboxes.extend(id, Duration::from_secs(50)).unwrap();
        assert!((49..=51).contains(&left()));
        sandboxes.set_timeout(id, Duration::from_secs(u64::from(u32::MAX))).unwrap();
        assert!((99..=100).contains(&left()));
        sandboxes.0.tasks.close();
        sandboxes.0.tasks.wait().await;
        let text = std::fs::read(sandbox.dir().join("sandbox.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let saved: DateTime<Utc> = serde_json::from_value(record["deadline"].clone()).unwrap();
        assert_eq!(saved, sandbox.ends_at().unwrap());
        sandboxes.set_timeout(id, Duration::ZERO).unwrap();
        tokio::time::timeout(Duration::from_secs(1), sandbox.cut().cancelled()).await.unwrap();
        assert!(matches!(sandboxes.extend(id, Duration::ZERO), Err(Error::NotFound(_))));
    }
}
