//! All families, in the order in which they are told; docs/metrics.md has them too.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use super::{
    CREATE_FAILURES, Format, Metrics, series,
    text::{Decimal, Text},
    view::View,
};
use crate::{
    backend::{self, OwnProcess},
    events::Events,
    logging::Log,
    sandbox::{PoolCount, Reason, Sandboxes},
};

type OfPool = fn(&PoolCount) -> usize;

/// What a scrape is answered with.
pub(crate) fn tell(sandboxes: &Sandboxes, format: Format) -> String {
    let metrics = sandboxes.metrics();
    let mut view = metrics.view.lock();
    view.look(sandboxes);
    // A little more than last time.
    let mut text = Text::new(format, view.length + view.length / 8);
    gateway(&mut text, metrics);
    metrics.requests.tell(&mut text);
    of_sandboxes(&mut text, metrics, sandboxes, &view);
    metrics.traffic.tell(&mut text);
    metrics.denials.tell(&mut text);
    let lost = metrics.audit_losses.value();
    text.counter("coppice_audit_lost_total", "Lines that the audit trail lacks.", lost);
    log(&mut text, metrics);
    events(&mut text, sandboxes.events());
    scrubbed(&mut text, sandboxes);
    webhooks(&mut text, metrics);
    certificate(&mut text, metrics);
    metrics.exporters.tell(&mut text);
    series::tell(&mut text, &view);
    metrics.work.tell(&mut text);
    pool(&mut text, &view.pool);
    process(&mut text, metrics, &backend::own_process());
    view.forget();
    let text = text.finish();
    view.length = text.len();
    text
}

/// What was taken out of events.
fn scrubbed(text: &mut Text, sandboxes: &Sandboxes) {
    let scrub = sandboxes.events().scrub();
    let name = "coppice_scrub_hits_total";
    text.counters(name, "What looked like a secret in events, by the pattern that found it.");
    for (pattern, hits) in scrub.hits() {
        text.sample(name, &[("pattern", pattern)], hits);
    }
    let name = "coppice_scrub_bytes_redacted_total";
    text.counter(name, "Bytes of those.", scrub.bytes());
}

/// What sandboxes have done, alone.
#[cfg(test)]
pub(crate) fn told_of_work(metrics: &Metrics) -> String {
    let mut text = Text::new(Format::Plain, 0);
    metrics.work.tell(&mut text);
    text.finish()
}

/// What exporters have done, alone.
#[cfg(test)]
pub(crate) fn told_of_exporters(metrics: &Metrics) -> String {
    let mut text = Text::new(Format::Plain, 0);
    metrics.exporters.tell(&mut text);
    text.finish()
}

fn gateway(text: &mut Text, metrics: &Metrics) {
    let name = "coppice_build_info";
    text.gauges(name, "1, with what this gateway is.");
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("backend", backend::BUILT_IN)];
    text.sample(name, &labels, 1);
    let uptime = Decimal(metrics.began.elapsed().as_secs_f64());
    text.gauge("coppice_uptime_seconds", "How long this gateway has run.", uptime);
}

fn of_sandboxes(text: &mut Text, metrics: &Metrics, sandboxes: &Sandboxes, view: &View) {
    let name = "coppice_racct_enabled";
    let racct = u8::from(backend::racct_enabled());
    text.gauge(name, "Whether FreeBSD accounts for what sandboxes use.", racct);
    let View { running, alive, .. } = *view;
    text.gauge("coppice_sandboxes_alive", "Sandboxes that are running or paused.", alive);
    let name = "coppice_sandboxes";
    text.gauges(name, "Those, by state.");
    for (state, count) in [("running", running), ("paused", alive - running)] {
        text.sample(name, &[("state", state)], count);
    }
    let oldest = Decimal(sandboxes.oldest_transition().unwrap_or_default().as_secs_f64());
    let name = "coppice_oldest_transition_seconds";
    text.gauge(name, "For how long a sandbox has been on its way to another state.", oldest);
    let created = metrics.creates.count();
    text.counter("coppice_sandboxes_created_total", "Creates that succeeded.", created);
    let killed = metrics.killed.value();
    text.counter("coppice_sandboxes_killed_total", "Kills that succeeded.", killed);
    let paused = metrics.pauses.count();
    text.counter("coppice_sandboxes_paused_total", "Pauses that succeeded.", paused);
    let resumed = metrics.resumes.count();
    text.counter("coppice_sandboxes_resumed_total", "Resumes that succeeded.", resumed);

    let name = "coppice_sandboxes_ended_total";
    text.counters(name, "Sandboxes that ended, by why.");
    let ended = Reason::ALL.iter().zip(metrics.ended.values());
    for (reason, count) in ended.filter(|(reason, _)| reason.ends()) {
        text.sample(name, &[("reason", reason.code())], count);
    }
    let name = "coppice_create_failures_total";
    text.counters(name, "Creates that failed, by why.");
    let failures = CREATE_FAILURES.iter().zip(metrics.create_failures.values());
    for ((_, reason), count) in failures {
        text.sample(name, &[("reason", reason)], count);
    }
    let spent = metrics.creates.nanoseconds();
    text.counter("coppice_sandbox_create_ns_sum", "Nanoseconds that creates took.", spent);
    let name = "coppice_sandbox_create_duration_seconds";
    text.histogram(name, "How long creates took.", &metrics.creates);
    let name = "coppice_sandbox_pause_duration_seconds";
    text.histogram(name, "How long pauses took.", &metrics.pauses);
    let name = "coppice_sandbox_resume_duration_seconds";
    text.histogram(name, "How long resumes took.", &metrics.resumes);
}

fn log(text: &mut Text, metrics: &Metrics) {
    let name = "coppice_log_lost_total";
    text.counters(name, "Lines that the log lacks, by where they were to go.");
    for (to, lost) in metrics.log.get().into_iter().flat_map(Log::lost) {
        text.sample(name, &[("to", to)], lost);
    }
}

fn certificate(text: &mut Text, metrics: &Metrics) {
    let until = metrics.certificate.get().map_or(0, |until| until.load(Ordering::Relaxed));
    let name = "coppice_tls_certificate_expiry_timestamp_seconds";
    text.gauges(name, "When the certificate that is served ends, since the epoch.");
    if until != 0 {
        text.sample(name, &[], until);
    }
    let name = "coppice_tls_renewals_total";
    text.counters(name, "Attempts to get a new certificate from the authority, by how they ended.");
    for (result, count) in ["done", "failed"].into_iter().zip(metrics.renewals.values()) {
        text.sample(name, &[("result", result)], count);
    }
}

fn events(text: &mut Text, events: &Events) {
    let name = "coppice_events_total";
    text.counters(name, "Events, whether or not anybody wanted them, by type.");
    for (kind, count) in events.told() {
        text.sample(name, &[("type", kind.name())], count);
    }
    let name = "coppice_events_lost_total";
    text.counters(name, "Events that a subscriber was too slow for, by subscriber.");
    events.each_lost(|subscriber, count| text.sample(name, &[("subscriber", subscriber)], count));
}

fn webhooks(text: &mut Text, metrics: &Metrics) {
    let name = "coppice_webhook_deliveries_total";
    text.counters(name, "Attempts to deliver an event to a webhook, by how they ended.");
    for (result, count) in ["success", "failed"].into_iter().zip(metrics.webhook_attempts.values())
    {
        text.sample(name, &[("result", result)], count);
    }
    let name = "coppice_webhook_events_lost_total";
    let lost = metrics.webhook_losses.value();
    text.counter(name, "Events that a webhook wanted and never gets.", lost);
}

fn pool(text: &mut Text, pool: &BTreeMap<String, PoolCount>) {
    let families: [(&str, &str, OfPool); 3] = [
        (
            "coppice_pool_total",
            "Sandboxes of the warm pool: being made, available or allocated.",
            |count| count.total,
        ),
        (
            "coppice_pool_allocated",
            "Running sandboxes that were taken from the warm pool.",
            |count| count.allocated,
        ),
        (
            "coppice_pool_available",
            "Sandboxes of the warm pool that are ready and nobody's.",
            |count| count.available,
        ),
    ];
    for (name, help, of) in families {
        text.gauges(name, help);
        for (template, count) in pool {
            text.sample(name, &[("template", template)], of(count));
        }
    }
}

/// As all of Prometheus' own libraries name it.
fn process(text: &mut Text, metrics: &Metrics, own: &OwnProcess) {
    let began = Decimal(metrics.began_at as f64 / 1e3);
    text.gauge("process_start_time_seconds", "When the gateway began, since the epoch.", began);
    let cpu = Decimal(own.cpu.as_secs_f64());
    text.counter("process_cpu_seconds_total", "CPU time of the gateway itself.", cpu);
    if let Some(bytes) = own.resident_bytes {
        text.gauge("process_resident_memory_bytes", "Memory of the gateway itself.", bytes);
    }
    if let Some(count) = own.descriptors {
        text.gauge("process_open_fds", "File descriptors of the gateway itself.", count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Error, PoolRules, Rules, testing};

    #[tokio::test]
    async fn what_happens_to_sandboxes_is_told_and_each_family_once() {
        let sizes = BTreeMap::from([("base".to_owned(), 2), ("of \"none\"".to_owned(), 1)]);
        let pool = PoolRules { sizes, memory: 1 << 30 };
        let bed = testing::bed(Rules { pool, ..testing::rules() });
        let [kept, killed] = [(); 2].map(|()| bed.sandboxes.create(testing::wanted(), None));
        let (_kept, killed) = (kept.await.unwrap(), killed.await.unwrap());
        bed.sandboxes.kill(killed.id()).await.unwrap();
        assert!(bed.sandboxes.kill(killed.id()).await.is_err());
        for name in ["nobody's", "building"] {
            let wanted = crate::sandbox::Wanted { template: name.into(), ..testing::wanted() };
            let failed = bed.sandboxes.create(wanted, None).await;
            assert!(matches!(failed, Err(Error::Template { .. })));
        }
        let text = tell(&bed.sandboxes, Format::Plain);
        for line in [
            "coppice_sandboxes_alive 1",
            "coppice_sandboxes_created_total 2",
            "coppice_sandboxes_killed_total 1",
            "coppice_sandboxes_paused_total 0",
            "coppice_sandboxes_ended_total{reason=\"user\"} 1",
            "coppice_sandboxes_ended_total{reason=\"envd_died\"} 0",
            "coppice_create_failures_total{reason=\"no_template\"} 1",
            "coppice_create_failures_total{reason=\"template_not_ready\"} 1",
            "coppice_sandbox_create_duration_seconds_count 2",
            "coppice_pool_available{template=\"base\"} 0",
            "coppice_pool_total{template=\"of \\\"none\\\"\"} 0",
            "coppice_execute_by_language_total{language=\"other\"} 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names: Vec<_> = types.map(|line| line.split(' ').next().unwrap()).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{text}");
        assert!(tell(&bed.sandboxes, Format::OpenMetrics).ends_with("# EOF\n"));
    }
}
