//! All families, in the order in which they are told; docs/metrics.md has them too.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    CreateFailure, EXITS, Format, LANGUAGES, Metrics, OTHER,
    text::{Decimal, Text},
};
use crate::{
    backend::{self, OwnProcess},
    sandbox::{PoolCount, Reason, Sandboxes},
};

type OfPool = fn(&PoolCount) -> usize;

/// What a scrape is answered with.
pub(crate) fn tell(sandboxes: &Sandboxes, format: Format) -> String {
    let metrics = sandboxes.metrics();
    let mut text = Text::new(format);
    gateway(&mut text, metrics);
    of_sandboxes(&mut text, metrics, sandboxes);
    interpreter(&mut text, metrics);
    commands(&mut text, metrics);
    pool(&mut text, sandboxes);
    process(&mut text, metrics, &backend::own_process());
    text.finish()
}

/// What sandboxes have done, alone.
#[cfg(test)]
pub(crate) fn told_of_work(metrics: &Metrics) -> String {
    let mut text = Text::new(Format::Plain);
    interpreter(&mut text, metrics);
    commands(&mut text, metrics);
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

fn of_sandboxes(text: &mut Text, metrics: &Metrics, sandboxes: &Sandboxes) {
    let running = sandboxes.registry().all_running().len();
    let alive = sandboxes.registry().all_present().len();
    text.gauge("coppice_sandboxes_alive", "Sandboxes that are running or paused.", alive);
    let name = "coppice_sandboxes";
    text.gauges(name, "Those, by state.");
    // One that was paused in between is counted as it was.
    for (state, count) in [("running", running), ("paused", alive.saturating_sub(running))] {
        text.sample(name, &[("state", state)], count);
    }
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
    for (reason, count) in Reason::ALL.iter().zip(metrics.ended.values()) {
        text.sample(name, &[("reason", reason.name())], count);
    }
    let name = "coppice_create_failures_total";
    text.counters(name, "Creates that failed, by why.");
    for (reason, count) in CreateFailure::NAMES.iter().zip(metrics.create_failures.values()) {
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

fn interpreter(text: &mut Text, metrics: &Metrics) {
    let alive = metrics.kernels.load(Relaxed);
    text.gauge("coppice_kernels_alive", "Kernels in sandboxes.", alive);
    let count = metrics.executes.count();
    let help = "Requests to run code, counted when their answer has ended.";
    text.counter("coppice_execute_requests_total", help, count);
    let errors = metrics.execute_errors.value();
    text.counter("coppice_execute_errors_total", "Those that were told of an error.", errors);
    let name = "coppice_execute_by_language_total";
    text.counters(name, "Code that has had its turn, by language.");
    let languages = LANGUAGES.iter().chain([&OTHER]);
    for (language, count) in languages.zip(metrics.languages.values()) {
        text.sample(name, &[("language", language)], count);
    }
    let spent = metrics.executes.nanoseconds();
    text.counter("coppice_execute_ns_sum", "Nanoseconds that requests to run code took.", spent);
    let name = "coppice_execute_duration_seconds";
    text.histogram(name, "How long requests to run code took.", &metrics.executes);

    let spawns = metrics.kernel_spawns.value();
    text.counter("coppice_kernel_spawns_total", "Kernels that came to answer.", spawns);
    let exits = metrics.kernel_exits.value();
    text.counter("coppice_kernel_exits_total", "Kernels that ended, for any reason.", exits);
    let deaths = metrics.kernel_deaths.value();
    text.counter("coppice_kernel_deaths_total", "Kernels that ended by themselves.", deaths);
}

fn commands(text: &mut Text, metrics: &Metrics) {
    let name = "coppice_command_exits_total";
    text.counters(name, "Commands and terminals that ended, by how.");
    for (exit, count) in EXITS.iter().zip(metrics.command_exits.values()) {
        text.sample(name, &[("exit", exit)], count);
    }
    let name = "coppice_command_duration_seconds";
    text.histogram(name, "How long commands and terminals ran.", &metrics.commands);
    let gaps = metrics.report_gaps.value();
    text.counter("coppice_report_gaps_total", "Times that reports of a sandbox were lost.", gaps);
}

fn pool(text: &mut Text, sandboxes: &Sandboxes) {
    let pool = sandboxes.pool();
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
        for (template, count) in &pool {
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
    use std::collections::BTreeMap;

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
            "coppice_sandboxes_ended_total{reason=\"killed\"} 1",
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
