//! Figures for Prometheus: counting what happens, and telling it with what others keep.
//!
//! What happens is counted here, by whoever sees it happen, without a lock and without memory.
//! What can be looked up where it is kept is, when it is asked for. What a sandbox says of itself
//! is believed within bounds; docs/metrics.md has which figure is whose word.

mod counts;
mod denied;
mod exporters;
mod families;
mod history;
mod requests;
mod samples;
mod series;
mod text;
mod traffic;
mod view;
mod work;

use std::{
    sync::{Arc, OnceLock, atomic::AtomicI64},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use counts::{Counter, Counters, Histogram};
use denied::Denials;
use exporters::Exporters;
use requests::Requests;
use traffic::Traffic;
use view::View;
use work::Work;

pub(crate) use denied::Denied;
pub(crate) use exporters::Exported;
pub(crate) use families::tell;
#[cfg(test)]
pub(crate) use families::{told_of_exporters, told_of_work};
pub(crate) use history::{History, Sample};
pub(crate) use requests::NONE;
pub(crate) use samples::{Latest, Samples, Standing};
pub(crate) use text::Format;
pub(crate) use traffic::{Direction, Meter, Open, Route};
pub(crate) use work::{Account, Execute};

use crate::{
    logging::Log,
    sandbox::{Error, Reason},
    template::FindError,
};

/// All that is counted, from when the gateway began.
#[derive(Debug)]
pub struct Metrics {
    began: Instant,
    /// Milliseconds since the epoch.
    began_at: u64,
    creates: Histogram,
    create_failures: Counters<{ CREATE_FAILURES.len() }>,
    killed: Counter,
    pauses: Histogram,
    resumes: Histogram,
    ended: Counters<{ Reason::ALL.len() }>,
    work: Work,
    traffic: Traffic,
    samples: Samples,
    requests: Requests,
    denials: Denials,
    audit_losses: Counter,
    /// Delivered, failed.
    webhook_attempts: Counters<2>,
    webhook_losses: Counter,
    /// See [`Metrics::certificate`].
    certificate: OnceLock<Arc<AtomicI64>>,
    /// See [`Metrics::logged_by`].
    log: OnceLock<Log>,
    /// Done, failed.
    renewals: Counters<2>,
    exporters: Exporters,
    view: Mutex<View>,
}

/// Why there is no sandbox: for what only a create can fail, or as a sandbox ends.
const CREATE_FAILURES: [(CreateFailure, &str); 8] = [
    (CreateFailure::NoTemplate, "no_template"),
    (CreateFailure::TemplateNotReady, "template_not_ready"),
    (CreateFailure::Of(Reason::Capacity), Reason::Capacity.code()),
    (CreateFailure::Of(Reason::Disk), Reason::Disk.code()),
    (CreateFailure::Of(Reason::Stuck), Reason::Stuck.code()),
    (CreateFailure::Of(Reason::User), Reason::User.code()),
    (CreateFailure::Of(Reason::Admin), Reason::Admin.code()),
    (CreateFailure::Of(Reason::CreateFailed), Reason::CreateFailed.code()),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CreateFailure {
    NoTemplate,
    TemplateNotReady,
    Of(Reason),
}

impl CreateFailure {
    fn of(error: &Error) -> Self {
        match error {
            Error::Template { source: FindError::Unknown, .. } => Self::NoTemplate,
            Error::Template { .. } => Self::TemplateNotReady,
            _ => Self::Of(error.reason()),
        }
    }

    fn row(self) -> usize {
        let row = CREATE_FAILURES.iter().position(|(failure, _)| *failure == self);
        row.unwrap_or(CREATE_FAILURES.len() - 1)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self {
            began: Instant::now(),
            began_at: u64::try_from(at).unwrap_or(u64::MAX),
            creates: Histogram::default(),
            create_failures: Counters::default(),
            killed: Counter::default(),
            pauses: Histogram::default(),
            resumes: Histogram::default(),
            ended: Counters::default(),
            work: Work::default(),
            traffic: Traffic::default(),
            samples: Samples::default(),
            requests: Requests::default(),
            denials: Denials::default(),
            audit_losses: Counter::default(),
            webhook_attempts: Counters::default(),
            webhook_losses: Counter::default(),
            certificate: OnceLock::new(),
            log: OnceLock::new(),
            renewals: Counters::default(),
            exporters: Exporters::default(),
            view: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Milliseconds since the epoch: what was before is another gateway's.
    pub(crate) fn began_at(&self) -> u64 {
        self.began_at
    }

    /// A request of that route, method and status has its answer but for the body.
    pub(crate) fn request_answered(&self, route: &str, method: &str, status: u16, took: Duration) {
        self.requests.observe(route, method, status, took);
    }

    /// A request was refused for that reason.
    pub(crate) fn denied(&self, reason: Denied) {
        self.denials.add(reason, 1);
    }

    /// So many lines of the audit trail are lost.
    pub(crate) fn audit_lost(&self, count: u64) {
        self.audit_losses.add(count);
    }

    /// A delivery to a webhook was taken, or was not.
    pub(crate) fn webhook_attempted(&self, taken: bool) {
        self.webhook_attempts.raise(usize::from(!taken));
    }

    /// So many events never come to a webhook that wanted them.
    pub(crate) fn webhook_events_lost(&self, count: u64) {
        self.webhook_losses.add(count);
    }

    /// Where the end of the certificate that is served can be read, in seconds since the epoch; 0 as
    /// long as there is none.
    pub fn certificate(&self, until: Arc<AtomicI64>) {
        // There is one listener that takes one.
        let _ = self.certificate.set(until);
    }

    /// Where the lines that the log lacks are counted.
    pub(crate) fn logged_by(&self, log: &Log) {
        // There is one log in a process.
        let _ = self.log.set(log.clone());
    }

    /// A new certificate was got from the authority, or was not.
    pub(crate) fn certificate_renewed(&self, done: bool) {
        self.renewals.raise(usize::from(!done));
    }

    /// Where the exporter of that name counts.
    pub(crate) fn exporter(&self, name: &str) -> Arc<Exported> {
        self.exporters.add(name)
    }

    #[cfg(test)]
    pub(crate) fn failed_renewals(&self) -> u64 {
        self.renewals.values().nth(1).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn audit_losses(&self) -> u64 {
        self.audit_losses.value()
    }

    pub(crate) fn denied_times(&self, reason: Denied, times: u64) {
        self.denials.add(reason, times);
    }

    /// What sandboxes use.
    pub(crate) fn samples(&self) -> &Samples {
        &self.samples
    }

    /// A sandbox was made, and is about to be seen.
    pub(crate) fn sandbox_begun(&self, took: Duration) {
        self.creates.observe(took);
    }

    /// Returns what the failure is counted by.
    pub(crate) fn create_failed(&self, error: &Error) -> &'static str {
        let row = CreateFailure::of(error).row();
        self.create_failures.raise(row);
        CREATE_FAILURES[row].1
    }

    /// Because a client wanted it so.
    pub(crate) fn kill_succeeded(&self) {
        self.killed.raise();
    }

    pub(crate) fn pause_succeeded(&self, took: Duration) {
        self.pauses.observe(took);
    }

    pub(crate) fn resume_succeeded(&self, took: Duration) {
        self.resumes.observe(took);
    }

    pub(crate) fn sandbox_ended(&self, reason: Reason) {
        self.ended.raise(reason as usize);
    }
}
