//! Moving deadlines, and writing down where they went.

use std::{io, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::timeout;

use super::{Error, Sandbox, SandboxId, Sandboxes, pausing::refused, steps::STEP};

impl Sandboxes {
    /// Sets the deadline to `timeout` from now, sooner or later than it was, but not beyond the
    /// longest life a sandbox may have since it was made or last resumed.
    ///
    /// # Errors
    /// [`Error::NotNow`] while it does not run.
    pub async fn set_timeout(&self, id: SandboxId, timeout: Duration) -> Result<(), Error> {
        self.renew(id, timeout, |_, new| new).await.map(drop)
    }

    /// Like [`Self::set_timeout`], but never sooner than it was.
    pub async fn extend(&self, id: SandboxId, timeout: Duration) -> Result<Arc<Sandbox>, Error> {
        self.renew(id, timeout, DateTime::max).await
    }

    /// When it returns the next gateway would know of it.
    async fn renew(
        &self,
        id: SandboxId,
        timeout: Duration,
        choose: fn(DateTime<Utc>, DateTime<Utc>) -> DateTime<Utc>,
    ) -> Result<Arc<Sandbox>, Error> {
        let sandbox = self.not_ending(id)?;
        let now = Utc::now();
        let mut too_old = false;
        let mut before = None;
        let renewed = sandbox.life.renew(|life| {
            before = Some(life.deadline);
            let latest = self.latest(life.runs_since);
            too_old = latest <= now;
            if too_old {
                life.deadline
            } else {
                choose(life.deadline, after(now, timeout).min(latest))
            }
        });
        let deadline = renewed.map_err(refused(id))?;
        if too_old {
            return Err(Error::TooOld(id));
        }
        self.watch(&sandbox);
        if before != Some(deadline) {
            self.tell_updated(&sandbox, "timeout", Some(deadline));
        }
        // This gateway keeps to it all the same.
        if let Err(error) = self.record(&sandbox).await
            && !sandbox.life.is_over()
        {
            tracing::error!(sandbox = %id, "the next gateway would not know of its timeout: {error}");
        }
        Ok(sandbox)
    }

    /// When one that runs since then must have ended or been paused.
    pub(super) fn latest(&self, runs_since: DateTime<Utc>) -> DateTime<Utc> {
        let most = self.0.rules.max_life;
        most.map_or(DateTime::<Utc>::MAX_UTC, |most| after(runs_since, most))
    }

    /// Has the sweeper look at it in time, after whatever changed when that is.
    pub(super) fn watch(&self, sandbox: &Sandbox) {
        self.0.deadlines.watch(sandbox.id(), || sandbox.due(Utc::now()));
    }

    /// Whatever comes of it, of the sandbox itself it is known how it stands.
    pub(super) async fn record(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let saved = sandbox.clone();
        let write = self.0.tasks.spawn_blocking(move || saved.save());
        match timeout(STEP, write).await {
            Ok(written) => written.map_err(|e| Error::BrokenOff(e.to_string()))?,
            Err(_) => {
                let late = io::ErrorKind::TimedOut.into();
                Err(Error::io("cannot write the record in", sandbox.dir(), late))
            }
        }
    }

    /// Writes the record without keeping anybody waiting.
    pub(super) fn record_soon(&self, sandbox: &Arc<Sandbox>) {
        let sandbox = sandbox.clone();
        self.0.tasks.spawn_blocking(move || {
            if let Err(error) = sandbox.save()
                && !sandbox.life.is_over()
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
    use crate::sandbox::{Phase, Rules, testing};

    #[tokio::test]
    async fn timeouts_shorten_and_lengthen_extensions_only_lengthen_and_life_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let rules = Rules { max_life: Some(Duration::from_secs(100)), ..testing::rules() };
        let sandboxes = testing::sandboxes(dir.path(), &Arc::default(), rules);
        let tidy = sandboxes.clone();
        tokio::spawn(async move { tidy.keep_tidy().await });
        let sandbox = sandboxes.create(testing::wanted(), None).await.unwrap();
        let (id, start) = (sandbox.id(), sandbox.facts().started_at);
        let left = || (sandbox.ends_at().unwrap() - start).num_seconds();
        sandboxes.set_timeout(id, Duration::from_secs(20)).await.unwrap();
        assert!((19..=21).contains(&left()));
        sandboxes.extend(id, Duration::from_secs(5)).await.unwrap();
        assert!((19..=21).contains(&left()));
        sandboxes.extend(id, Duration::from_secs(50)).await.unwrap();
        assert!((49..=51).contains(&left()));
        sandboxes.set_timeout(id, Duration::from_secs(u64::from(u32::MAX))).await.unwrap();
        assert!((99..=100).contains(&left()));
        sandboxes.0.tasks.close();
        sandboxes.0.tasks.wait().await;
        let text = std::fs::read(sandbox.dir().join("sandbox.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let saved: DateTime<Utc> = serde_json::from_value(record["deadline"].clone()).unwrap();
        assert_eq!(saved, sandbox.ends_at().unwrap());
        sandboxes.set_timeout(id, Duration::ZERO).await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), sandbox.cut().cancelled()).await.unwrap();
        let late = sandboxes.extend(id, Duration::ZERO).await;
        assert!(matches!(late, Err(Error::NotFound(_) | Error::NotNow(_, Phase::Stopping))));
    }

    #[tokio::test]
    async fn who_has_lived_as_long_as_may_be_is_not_prolonged() {
        let rules = Rules { max_life: Some(Duration::from_millis(100)), ..testing::rules() };
        let bed = testing::bed(rules);
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(110)).await;
        let late = bed.sandboxes.extend(sandbox.id(), Duration::from_secs(9)).await.map(drop);
        assert!(matches!(late, Err(Error::TooOld(_))), "{late:?}");
        let told = crate::error::ApiError::from(Error::TooOld(sandbox.id()));
        assert!(format!("{told:?}").contains("Max instance length exceeded"), "{told:?}");
    }
}
