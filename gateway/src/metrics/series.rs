//! Families with a series for each sandbox, from the sampler's last look at it. A sandbox that is
//! gone has none in the next scrape.

use super::{
    samples::Latest,
    text::{Decimal, Text},
    view::View,
};
use crate::sandbox::Sandbox;

type Gauge = (&'static str, &'static str, fn(&Sandbox, &Latest) -> Option<u64>);

const GAUGES: [Gauge; 5] = [
    (
        "coppice_sandbox_memory_bytes",
        "Memory of a sandbox, all that its limit counts.",
        |_, now| Some(now.usage.memory_bytes),
    ),
    ("coppice_sandbox_memory_limit_bytes", "What of it a sandbox may have.", |sandbox, _| {
        Some(sandbox.facts().limits.memory_bytes)
    }),
    ("coppice_sandbox_disk_bytes", "What a sandbox has written, once it is known.", |_, now| {
        now.usage.disk_bytes
    }),
    ("coppice_sandbox_disk_limit_bytes", "What of it a sandbox may have.", |sandbox, _| {
        sandbox.facts().limits.disk_bytes
    }),
    ("coppice_sandbox_processes", "What a sandbox's process limit counts.", |_, now| {
        Some(now.usage.processes)
    }),
];

pub(super) fn tell(text: &mut Text, view: &View) {
    let known = || {
        let shown = view.shown.iter();
        shown.filter_map(|(sandbox, latest)| Some((sandbox.as_ref(), latest.as_ref()?)))
    };
    let name = "coppice_sandbox_cpu_percent";
    text.gauges(name, "CPU of a sandbox in the last second; 100 is one core.");
    for (sandbox, now) in known() {
        if let Some(percent) = now.cpu_percent {
            sample(text, name, sandbox, Decimal((percent * 100.0).round() / 100.0));
        }
    }
    let name = "coppice_sandbox_cpu_seconds_total";
    text.counters(name, "CPU time of a sandbox since it was made.");
    for (sandbox, now) in known() {
        sample(text, name, sandbox, Decimal(now.usage.cpu.as_secs_f64()));
    }
    for (name, help, of) in GAUGES {
        text.gauges(name, help);
        for (sandbox, now) in known() {
            if let Some(value) = of(sandbox, now) {
                sample(text, name, sandbox, value);
            }
        }
    }
    let name = "coppice_sandbox_series_dropped";
    let help = "Sandboxes that have no series, as there are too many.";
    text.gauge(name, help, view.dropped);
}

fn sample(text: &mut Text, name: &str, sandbox: &Sandbox, value: impl std::fmt::Display) {
    let mut buffer = [0; 32];
    let template = sandbox.facts().template.id.as_str();
    let labels = [("sandbox", sandbox.id().label(&mut buffer)), ("template", template)];
    text.sample(name, &labels, value);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{
        Format, families,
        view::{MOST, View},
    };
    use crate::sandbox::{
        SandboxId,
        testing::{self, bed},
    };

    fn series(text: &str) -> Vec<&str> {
        text.lines()
            .filter(|line| line.starts_with("coppice_sandbox_") && line.contains("sandbox="))
            .collect()
    }

    #[tokio::test]
    async fn a_sandbox_has_its_series_for_as_long_as_it_is_there() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let tell = || families::tell(&bed.sandboxes, Format::Plain);
        assert!(series(&tell()).is_empty());
        bed.sandboxes.begin_sampling().await;
        let text = tell();
        let label = &sandbox.id().to_string()[..12];
        let expected = [
            ("cpu_seconds_total", "0.0"),
            ("memory_bytes", "0"),
            ("memory_limit_bytes", "1073741824"),
            ("processes", "1"),
        ];
        let expected = expected.map(|(name, value)| {
            format!("coppice_sandbox_{name}{{sandbox=\"{label}\",template=\"base\"}} {value}")
        });
        assert_eq!(series(&text), expected);
        assert!(text.contains("\ncoppice_sandbox_series_dropped 0\n"));
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        assert!(series(&tell()).is_empty());
    }

    #[tokio::test]
    async fn beyond_so_many_only_the_oldest_are_shown_and_the_others_are_counted() {
        let bed = bed(testing::rules());
        let mut ids = Vec::new();
        for _ in 0..MOST + 3 {
            let id = SandboxId::random();
            bed.sandboxes.registry().readmit(testing::sandbox_in(id, Path::new("/nowhere"), ""));
            ids.push(id);
        }
        let mut view = View::default();
        view.look(&bed.sandboxes);
        assert_eq!((view.alive, view.running, view.dropped), (MOST + 3, MOST + 3, 3));
        let shown: Vec<_> = view.shown.iter().map(|(sandbox, _)| sandbox.id()).collect();
        assert_eq!(shown, ids[..MOST]);
        let text = families::tell(&bed.sandboxes, Format::Plain);
        assert!(text.contains("\ncoppice_sandbox_series_dropped 3\n"), "{text}");
    }
}
