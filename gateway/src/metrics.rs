//! What Prometheus is told, in its text format 0.0.4.
//!
//! Figures are looked up where they are kept, when they are asked for; none is kept here.

use std::fmt::{Display, Write};

use crate::sandbox::{PoolCount, Sandboxes};

type OfPool = fn(&PoolCount) -> usize;

/// All families.
pub(crate) fn text(sandboxes: &Sandboxes) -> String {
    let mut text = Text::default();
    let alive = sandboxes.registry().all_running().len();
    text.gauge("coppice_sandboxes_alive", "Sandboxes that are running.");
    text.sample("coppice_sandboxes_alive", &[], alive);

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
        text.gauge(name, help);
        for (template, count) in &pool {
            text.sample(name, &[("template", template)], of(count));
        }
    }
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// Begins a family.
    fn gauge(&mut self, name: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| {
                let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{label}=\"{escaped}\"")
            })
            .collect();
        match labels.is_empty() {
            true => self.line(format_args!("{name} {value}")),
            false => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
        }
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes all that is written to it");
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::sandbox::{PoolRules, Rules, testing};

    #[tokio::test]
    async fn each_family_has_its_help_and_type_and_a_line_for_each_template() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = BTreeMap::from([("base".to_owned(), 2), ("of \"none\"".to_owned(), 1)]);
        let pool = PoolRules { sizes, memory: 1 << 30 };
        let rules = Rules { pool, ..testing::rules() };
        let sandboxes = testing::sandboxes(dir.path(), &Arc::default(), rules);
        sandboxes.create(testing::wanted(), None).await.unwrap();
        let expected = "\
# HELP coppice_sandboxes_alive Sandboxes that are running.
# TYPE coppice_sandboxes_alive gauge
coppice_sandboxes_alive 1
# HELP coppice_pool_total Sandboxes of the warm pool: being made, available or allocated.
# TYPE coppice_pool_total gauge
coppice_pool_total{template=\"base\"} 0
coppice_pool_total{template=\"of \\\"none\\\"\"} 0
# HELP coppice_pool_allocated Running sandboxes that were taken from the warm pool.
# TYPE coppice_pool_allocated gauge
coppice_pool_allocated{template=\"base\"} 0
coppice_pool_allocated{template=\"of \\\"none\\\"\"} 0
# HELP coppice_pool_available Sandboxes of the warm pool that are ready and nobody's.
# TYPE coppice_pool_available gauge
coppice_pool_available{template=\"base\"} 0
coppice_pool_available{template=\"of \\\"none\\\"\"} 0
";
        assert_eq!(text(&sandboxes), expected);
    }
}
