//! How figures are written down: Prometheus' text format 0.0.4, or OpenMetrics 1.0.

use std::fmt::{Debug, Display, Write};

use super::counts::{BOUNDS, Histogram};

/// What the reader asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    OpenMetrics,
}

impl Format {
    /// By `Accept`.
    pub(crate) fn wanted(accept: &str) -> Self {
        let mut kinds = accept.split(',').map(|range| range.split(';').next().unwrap_or(range));
        match kinds.any(|kind| kind.trim().eq_ignore_ascii_case("application/openmetrics-text")) {
            true => Self::OpenMetrics,
            false => Self::Plain,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub(super) struct Text {
    out: String,
    format: Format,
}

impl Text {
    /// With room for so many bytes; it makes more where it has to.
    pub(super) fn new(format: Format, room: usize) -> Self {
        Self { out: String::with_capacity(room), format }
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.counters(name, help);
        self.sample(name, &[], value);
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauges(name, help);
        self.sample(name, &[], value);
    }

    /// Begins a family of counters.
    pub(super) fn counters(&mut self, name: &str, help: &str) {
        match (self.format, name.strip_suffix("_total")) {
            (Format::Plain, _) => self.family(name, "counter", help),
            (Format::OpenMetrics, Some(family)) => self.family(family, "counter", help),
            // There all counters are named so.
            (Format::OpenMetrics, None) => self.family(name, "unknown", help),
        }
    }

    /// Begins a family of gauges.
    pub(super) fn gauges(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
    }

    /// In seconds, without labels.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.histograms(name, help);
        self.buckets(name, &[], histogram);
    }

    /// Begins a family of histograms.
    pub(super) fn histograms(&mut self, name: &str, help: &str) {
        self.family(name, "histogram", help);
    }

    /// One of the family that was begun last.
    pub(super) fn buckets(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut bounds = BOUNDS.iter();
        let mut all = 0;
        for count in histogram.cumulative() {
            self.labelled(name, "_bucket", labels);
            self.out.push(if labels.is_empty() { '{' } else { ',' });
            match bounds.next() {
                Some(&millis) => {
                    let bound = Decimal(millis as f64 / 1e3);
                    self.line(format_args!("le=\"{bound}\"}} {count}"));
                }
                None => self.line(format_args!("le=\"+Inf\"}} {count}")),
            }
            all = count;
        }
        self.labelled(name, "_sum", labels);
        self.end(labels, Decimal(histogram.nanoseconds() as f64 / 1e9));
        self.labelled(name, "_count", labels);
        self.end(labels, all);
    }

    /// Of the family that was begun last.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.labelled(name, "", labels);
        self.end(labels, value);
    }

    /// A name and its labels, which may have more after them.
    fn labelled(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)]) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        let mut before = '{';
        for (label, value) in labels {
            self.out.push(before);
            before = ',';
            self.out.push_str(label);
            self.out.push_str("=\"");
            let mut rest = *value;
            while let Some(at) = rest.find(['\\', '"', '\n']) {
                self.out.push_str(&rest[..at]);
                self.out.push_str(match rest.as_bytes()[at] {
                    b'\\' => "\\\\",
                    b'"' => "\\\"",
                    _ => "\\n",
                });
                rest = &rest[at + 1..];
            }
            self.out.push_str(rest);
            self.out.push('"');
        }
    }

    fn end(&mut self, labels: &[(&str, &str)], value: impl Display) {
        if !labels.is_empty() {
            self.out.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.line("# EOF");
        }
        self.out
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        debug_assert!(!help.contains(['\\', '\n', '"']), "help is not escaped");
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.out, "{line}").expect("a string takes all that is written to it");
    }
}

/// With a point, also where nothing comes after it.
pub(super) struct Decimal(pub(super) f64);

impl Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written(format: Format) -> String {
        let mut text = Text::new(format, 0);
        text.counter("things_total", "Things.", 3);
        text.counter("time_ns_sum", "Time.", 4);
        text.gauges("size", "Size.");
        text.sample("size", &[("a", "x"), ("b", "\"\\\n")], Decimal(2.0));
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(7));
        histogram.observe(Duration::from_secs(301));
        text.histogram("took_seconds", "Took.", &histogram);
        text.finish()
    }

    #[test]
    fn families_have_their_help_and_type_and_histograms_are_cumulative() {
        let text = written(Format::Plain);
        let beginning = "\
# HELP things_total Things.
# TYPE things_total counter
things_total 3
# HELP time_ns_sum Time.
# TYPE time_ns_sum counter
time_ns_sum 4
# HELP size Size.
# TYPE size gauge
size{a=\"x\",b=\"\\\"\\\\\\n\"} 2.0
# HELP took_seconds Took.
# TYPE took_seconds histogram
took_seconds_bucket{le=\"0.005\"} 0
took_seconds_bucket{le=\"0.01\"} 1
";
        assert!(text.starts_with(beginning), "{text}");
        let end = "\
took_seconds_bucket{le=\"300.0\"} 1
took_seconds_bucket{le=\"+Inf\"} 2
took_seconds_sum 301.007
took_seconds_count 2
";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn openmetrics_names_counters_by_their_family_and_has_an_end() {
        let text = written(Format::OpenMetrics);
        let beginning = "\
# HELP things Things.
# TYPE things counter
things_total 3
# HELP time_ns_sum Time.
# TYPE time_ns_sum unknown
time_ns_sum 4
";
        assert!(text.starts_with(beginning), "{text}");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn openmetrics_is_for_those_who_name_it() {
        for accept in [
            "application/openmetrics-text",
            "text/plain;q=0.5, Application/OpenMetrics-Text; version=1.0.0; charset=utf-8",
        ] {
            assert_eq!(Format::wanted(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in ["", "*/*", "text/plain", "application/openmetrics-text2", "text/html, */*"] {
            assert_eq!(Format::wanted(accept), Format::Plain, "{accept}");
        }
    }
}
