//! Metrics, pushed at an interval.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{ResourceMetrics, ScopeMetrics},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    answer::Answer,
    figures::{Figures, Look, Nanos},
    scope,
    send::Sender,
};
use crate::{
    config::{Otlp, Way},
    metrics::{self, Format},
    sandbox::{Sandboxes, Shelf},
};

/// Before the first attempt after one that failed; doubled up to the interval.
const PAUSE: Duration = Duration::from_secs(1);
/// For the last push of a gateway that stops.
const LAST: Duration = Duration::from_millis(1500);

/// The push of one receiver.
pub(crate) struct Metrics {
    way: Way,
    otlp: Otlp,
    sandboxes: Sandboxes,
    figures: Figures,
    sender: Option<Sender>,
    /// So that a receiver that is away is told of once.
    failing: bool,
}

impl Metrics {
    /// `None`: the receiver is to have no metrics.
    pub(crate) fn new(otlp: &Otlp, sandboxes: &Sandboxes) -> Option<Self> {
        let began = sandboxes.metrics().began_at().saturating_mul(1_000_000);
        Some(Self {
            way: otlp.metrics.clone()?,
            otlp: otlp.clone(),
            sandboxes: sandboxes.clone(),
            figures: Figures::new(otlp.temporality, began),
            sender: None,
            failing: false,
        })
    }

    /// Until the gateway stops, and once more then.
    pub(crate) async fn keep(mut self, stop: CancellationToken) {
        let every = self.otlp.interval;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => break,
            }
            tokio::select! {
                () = self.push_until(every) => {}
                () = stop.cancelled() => break,
            }
        }
        let _ = timeout(LAST, self.push()).await;
    }

    /// What could not be pushed in an interval's time is left to the next, which has all of it too.
    async fn push_until(&mut self, every: Duration) {
        let end = Instant::now() + every;
        let mut pause = PAUSE.min(every);
        while let ControlFlow::Break(after) = self.push().await {
            let wait = after.unwrap_or(pause);
            if wait >= end.saturating_duration_since(Instant::now()) {
                return;
            }
            sleep(wait).await;
            pause = (pause * 2).min(every);
        }
    }

    /// Breaks where it is to be tried again, and says when, if the receiver did.
    async fn push(&mut self) -> ControlFlow<Option<Duration>> {
        let look = self.look();
        let answer = match self.sender() {
            Ok(sender) => {
                let request = request(sender, &look);
                sender.send(&request).await
            }
            Err(why) => Answer::later(why),
        };
        match answer {
            Answer::Taken { refused, said } => {
                self.figures.taken(look);
                if refused > 0 || !said.is_empty() {
                    tracing::warn!(refused, "the receiver of metrics says: {said}");
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the receiver of metrics takes them again");
                }
                ControlFlow::Continue(())
            }
            Answer::Later { after, why } => {
                self.fail(&why);
                ControlFlow::Break(after)
            }
            Answer::Refused(why) => {
                self.fail(&why);
                ControlFlow::Continue(())
            }
        }
    }

    fn fail(&mut self, why: &str) {
        // Whatever it keeps is had anew: certificates may have changed.
        self.sender = None;
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!("the receiver of metrics does not take them: {why}");
        }
    }

    fn sender(&mut self) -> Result<&Sender, String> {
        let sender = match self.sender.take() {
            Some(sender) => sender,
            None => Sender::new(&self.way, &self.otlp.resource)?,
        };
        Ok(self.sender.insert(sender))
    }

    fn look(&self) -> Look {
        let text = metrics::tell(&self.sandboxes, Format::Plain);
        let since = self.since();
        self.figures.look(&text, now(), &|label| since.get(label).copied())
    }

    /// When sandboxes were made, by their labels.
    fn since(&self) -> HashMap<String, Nanos> {
        let mut since = HashMap::new();
        self.sandboxes.registry().visit(&Shelf::All, false, None, |sandbox| {
            let made = sandbox.facts().started_at.timestamp_micros();
            let made = u64::try_from(made).unwrap_or_default().saturating_mul(1000);
            since.insert(sandbox.id().label(&mut [0; 32]).to_owned(), made);
            ControlFlow::Continue(())
        });
        since
    }
}

fn request(sender: &Sender, look: &Look) -> ExportMetricsServiceRequest {
    let scope_metrics = ScopeMetrics {
        scope: Some(scope()),
        metrics: look.metrics.clone(),
        ..ScopeMetrics::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(sender.resource.clone()),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        }],
    }
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
