//! The gateway's figures as OTLP has them. They are read out of the text that a scrape would be
//! answered with: so there is one list of families, and each is named in both alike.
//!
//! Counters and histograms are cumulative since the gateway began, or, where that is wanted, the
//! difference to what was taken last: what a receiver did not take is in the next difference.

use std::collections::{BTreeMap, HashMap};

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        metric::Data, number_data_point::Value,
    },
};

use super::attribute;

/// What counters are told as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Temporality {
    #[default]
    Cumulative,
    Delta,
}

/// Nanoseconds since the epoch, as all times of OTLP.
pub(super) type Nanos = u64;

/// When what a counter of one sandbox counts began, by the sandbox's label.
pub(super) type Since<'a> = &'a dyn Fn(&str) -> Option<Nanos>;

/// What was told, by series; kept where differences are wanted.
pub(super) type Told = HashMap<String, Vec<f64>>;

pub(super) struct Figures {
    temporality: Temporality,
    /// When the gateway's counters began.
    began: Nanos,
    /// Up to when what has been taken goes.
    taken_until: Nanos,
    taken: Told,
}

/// Of one look.
pub(super) struct Look {
    pub(super) metrics: Vec<Metric>,
    at: Nanos,
    told: Told,
}

impl Figures {
    pub(super) fn new(temporality: Temporality, began: Nanos) -> Self {
        Self { temporality, began, taken_until: began, taken: Told::new() }
    }

    /// What `text`, in Prometheus' format, says at `now`.
    pub(super) fn look(&self, text: &str, now: Nanos, since: Since) -> Look {
        let mut look = Look { metrics: Vec::new(), at: now, told: Told::new() };
        for family in families(text) {
            let data = match family.kind {
                "counter" => self.sum(&family, now, since, &mut look.told),
                "histogram" => self.histogram(&family, now, &mut look.told),
                _ => gauge(&family, now),
            };
            look.metrics.push(Metric {
                name: family.name.to_owned(),
                description: family.help.to_owned(),
                unit: unit(family.name).to_owned(),
                metadata: Vec::new(),
                data: Some(data),
            });
        }
        // A family without a series says nothing.
        look.metrics.retain(|metric| match &metric.data {
            Some(Data::Sum(sum)) => !sum.data_points.is_empty(),
            Some(Data::Gauge(gauge)) => !gauge.data_points.is_empty(),
            Some(Data::Histogram(histogram)) => !histogram.data_points.is_empty(),
            _ => false,
        });
        look
    }

    /// The receiver has that look: the next difference is to it.
    pub(super) fn taken(&mut self, look: Look) {
        if self.temporality == Temporality::Delta {
            self.taken_until = look.at;
            self.taken = look.told;
        }
    }

    fn aggregation(&self) -> i32 {
        match self.temporality {
            Temporality::Cumulative => AggregationTemporality::Cumulative as i32,
            Temporality::Delta => AggregationTemporality::Delta as i32,
        }
    }

    /// What is to be told of the numbers of a series, and since when that counts.
    fn difference(&self, series: String, now: Vec<f64>, told: &mut Told) -> (Vec<f64>, Nanos) {
        if self.temporality == Temporality::Cumulative {
            return (now, self.began);
        }
        let difference = match self.taken.get(&series) {
            // A series that began anew (its sandbox's label is another's) has all of it to tell.
            Some(before) if before.len() == now.len() => {
                now.iter().zip(before).map(|(n, b)| if n < b { *n } else { n - b }).collect()
            }
            _ => now.clone(),
        };
        told.insert(series, now);
        (difference, self.taken_until)
    }

    fn sum(&self, family: &Family, now: Nanos, since: Since, told: &mut Told) -> Data {
        let points = family.samples.iter().filter_map(|sample| {
            let value: f64 = sample.value.parse().ok()?;
            let series = format!("{}{{{}", sample.name, sample.labels);
            let (difference, began) = self.difference(series, vec![value], told);
            let pairs = pairs(sample.labels);
            let own = pairs.iter().find(|(name, _)| *name == "sandbox");
            let own = own.and_then(|(_, label)| since(label));
            let began = match self.temporality {
                Temporality::Cumulative => own.unwrap_or(began).min(now),
                Temporality::Delta => began,
            };
            let value = match sample.value.parse() {
                Ok(_) if self.temporality == Temporality::Delta => number(difference[0]),
                Ok(whole) => Value::AsInt(whole),
                Err(_) => Value::AsDouble(difference[0]),
            };
            Some(point(pairs, began, now, value))
        });
        Data::Sum(Sum {
            data_points: points.collect(),
            aggregation_temporality: self.aggregation(),
            is_monotonic: true,
        })
    }

    fn histogram(&self, family: &Family, now: Nanos, told: &mut Told) -> Data {
        let mut all: BTreeMap<Vec<(&str, String)>, Buckets> = BTreeMap::new();
        for sample in &family.samples {
            let mut labels = pairs(sample.labels);
            let bound = labels.iter().position(|(name, _)| *name == "le");
            let bound = bound.map(|at| labels.remove(at).1);
            let Ok(value) = sample.value.parse::<f64>() else { continue };
            let buckets = all.entry(labels).or_default();
            match (bound, sample.name.strip_prefix(family.name)) {
                (Some(bound), Some("_bucket")) => {
                    // That of the last one, `+Inf`, is not told.
                    buckets.bounds.extend(bound.parse::<f64>().ok().filter(|it| it.is_finite()));
                    buckets.cumulative.push(value);
                }
                (None, Some("_sum")) => buckets.sum = value,
                _ => {}
            }
        }
        let points = all.into_iter().map(|(labels, buckets)| {
            let mut below = 0.0;
            let own = buckets.cumulative.iter().map(|all| {
                let own = all - below;
                below = *all;
                own
            });
            let numbers: Vec<f64> = own.chain([buckets.sum]).collect();
            let series = format!("{}{labels:?}", family.name);
            let (numbers, began) = self.difference(series, numbers, told);
            let (sum, counts) = numbers.split_last().map_or((0.0, &[][..]), |(s, c)| (*s, c));
            let counts: Vec<u64> = counts.iter().map(|count| *count as u64).collect();
            HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: began,
                time_unix_nano: now,
                count: counts.iter().sum(),
                sum: Some(sum),
                bucket_counts: counts,
                explicit_bounds: buckets.bounds,
                ..HistogramDataPoint::default()
            }
        });
        Data::Histogram(Histogram {
            data_points: points.collect(),
            aggregation_temporality: self.aggregation(),
        })
    }
}

#[derive(Default)]
struct Buckets {
    bounds: Vec<f64>,
    cumulative: Vec<f64>,
    sum: f64,
}

fn gauge(family: &Family, now: Nanos) -> Data {
    let points = family.samples.iter().filter_map(|sample| {
        let value = match sample.value.parse() {
            Ok(whole) => Value::AsInt(whole),
            Err(_) => Value::AsDouble(sample.value.parse().ok()?),
        };
        Some(point(pairs(sample.labels), 0, now, value))
    });
    Data::Gauge(Gauge { data_points: points.collect() })
}

/// Of what was whole, what is left of it is.
fn number(value: f64) -> Value {
    Value::AsInt(value as i64)
}

fn point(labels: Vec<(&str, String)>, began: Nanos, now: Nanos, value: Value) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: began,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn attributes(labels: Vec<(&str, String)>) -> Vec<KeyValue> {
    labels.into_iter().map(|(name, value)| attribute(name, value)).collect()
}

/// In UCUM, as far as the name says.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    let units = [
        ("_seconds", "s"),
        ("_bytes", "By"),
        ("_ns_sum", "ns"),
        ("_percent", "%"),
        ("_ratio", "1"),
    ];
    units.iter().find(|(end, _)| name.ends_with(end)).map_or("", |(_, unit)| unit)
}

struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

struct Sample<'a> {
    name: &'a str,
    /// As they stand between the braces.
    labels: &'a str,
    value: &'a str,
}

/// Of a text that [`crate::metrics`] has written: it is not another's, so there is nothing to
/// refuse.
fn families(text: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family> = Vec::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "gauge"));
            families.push(Family { name, help, kind, samples: Vec::new() });
        } else if let Some(family) = families.last_mut()
            && let Some((series, value)) = line.rsplit_once(' ')
        {
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (series, ""),
            };
            family.samples.push(Sample { name, labels, value });
        }
    }
    families
}

/// `a="x",b="\"y\""`, taken apart.
fn pairs(labels: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut rest = labels;
    while let Some((name, quoted)) = rest.split_once("=\"") {
        let (mut value, mut escaped, mut end) = (String::new(), false, quoted.len());
        for (at, c) in quoted.char_indices() {
            match c {
                'n' if escaped => value.push('\n'),
                c if escaped => value.push(c),
                '\\' => {
                    escaped = true;
                    continue;
                }
                '"' => {
                    end = at + 1;
                    break;
                }
                c => value.push(c),
            }
            escaped = false;
        }
        found.push((name, value));
        rest = quoted[end..].trim_start_matches(',');
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP coppice_sandboxes_created_total Creates.
# TYPE coppice_sandboxes_created_total counter
coppice_sandboxes_created_total 3
# HELP coppice_sandbox_cpu_seconds_total CPU.
# TYPE coppice_sandbox_cpu_seconds_total counter
coppice_sandbox_cpu_seconds_total{sandbox=\"abc\",template=\"a \\\"b\\\"}\"} 1.5
# HELP coppice_sandboxes_alive Alive.
# TYPE coppice_sandboxes_alive gauge
coppice_sandboxes_alive 2
# HELP coppice_none Nothing.
# TYPE coppice_none gauge
# HELP coppice_took_seconds Took.
# TYPE coppice_took_seconds histogram
coppice_took_seconds_bucket{route=\"/\",le=\"0.005\"} 1
coppice_took_seconds_bucket{route=\"/\",le=\"0.01\"} 1
coppice_took_seconds_bucket{route=\"/\",le=\"+Inf\"} 4
coppice_took_seconds_sum{route=\"/\"} 2.5
coppice_took_seconds_count{route=\"/\"} 4
";

    fn by_name<'a>(look: &'a Look, name: &str) -> &'a Metric {
        look.metrics.iter().find(|metric| metric.name == name).unwrap()
    }

    fn sum<'a>(look: &'a Look, name: &str) -> &'a NumberDataPoint {
        match by_name(look, name).data.as_ref().unwrap() {
            Data::Sum(sum) => &sum.data_points[0],
            other => panic!("{other:?}"),
        }
    }

    fn histogram(look: &Look) -> &HistogramDataPoint {
        match by_name(look, "coppice_took_seconds").data.as_ref().unwrap() {
            Data::Histogram(histogram) => &histogram.data_points[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn families_keep_name_kind_labels_and_numbers_and_count_since_they_began() {
        let figures = Figures::new(Temporality::Cumulative, 100);
        let look = figures.look(TEXT, 900, &|label| (label == "abc").then_some(50));
        assert_eq!(look.metrics.len(), 4, "a family without series is not told");
        let created = sum(&look, "coppice_sandboxes_created_total");
        assert_eq!((created.start_time_unix_nano, created.time_unix_nano), (100, 900));
        assert_eq!(created.value, Some(Value::AsInt(3)));
        let cpu = sum(&look, "coppice_sandbox_cpu_seconds_total");
        assert_eq!((cpu.start_time_unix_nano, &cpu.value), (50, &Some(Value::AsDouble(1.5))));
        let labels = [("sandbox", "abc"), ("template", "a \"b\"}")];
        assert_eq!(cpu.attributes, labels.map(|(name, value)| attribute(name, value.to_owned())));
        assert_eq!(by_name(&look, "coppice_sandbox_cpu_seconds_total").unit, "s");
        let took = histogram(&look);
        assert_eq!((took.count, took.sum), (4, Some(2.5)));
        assert_eq!(took.bucket_counts, [1, 0, 3]);
        assert_eq!(took.explicit_bounds, [0.005, 0.01]);
        assert_eq!(took.start_time_unix_nano, 100);
    }

    #[test]
    fn a_difference_is_to_what_was_taken_and_not_to_what_was_told() {
        let mut figures = Figures::new(Temporality::Delta, 100);
        let since = |_: &str| None;
        let first = figures.look(TEXT, 200, &since);
        assert_eq!(sum(&first, "coppice_sandboxes_created_total").value, Some(Value::AsInt(3)));
        figures.taken(first);
        let more = TEXT.replace("created_total 3", "created_total 5");
        // Told, and not taken: the next has it too.
        figures.look(&more, 300, &since);
        let more = more.replace("created_total 5", "created_total 9");
        let more = more.replace("le=\"+Inf\"} 4", "le=\"+Inf\"} 6");
        let look = figures.look(&more, 400, &since);
        let created = sum(&look, "coppice_sandboxes_created_total");
        assert_eq!(created.value, Some(Value::AsInt(6)));
        assert_eq!((created.start_time_unix_nano, created.time_unix_nano), (200, 400));
        assert_eq!(histogram(&look).bucket_counts, [0, 0, 2]);
        assert_eq!(histogram(&look).count, 2);
    }
}
