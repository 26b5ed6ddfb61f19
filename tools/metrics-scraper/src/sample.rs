//! One line of the recording: what is kept of a scrape. docs/metrics-jsonl.md has it as a schema.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde::Serialize;

use crate::text::{Series, series};

/// Of the line's form; a reader passes over lines of any other.
const VERSION: u8 = 1;

/// As it stands in a line, in that order. What the gateway does not tell is not there.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sample {
    v: u8,
    /// Milliseconds since the epoch, in UTC.
    pub(crate) at: i64,
    /// Seconds until the next one is to come; 0 for one by itself.
    every: u64,
    up: f64,
    pub(crate) alive: u64,
    pub(crate) kernels: u64,
    pub(crate) created: u64,
    killed: u64,
    paused: u64,
    resumed: u64,
    execs: u64,
    errors: u64,
    spawns: u64,
    exits: u64,
    create_ns: u64,
    exec_ns: u64,
    /// Creates and executions in each bucket of the histograms, to the last that is not empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    create: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exec: Vec<u64>,
    /// Of all templates: entries there are, taken, and ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<[u64; 3]>,
    /// CPU in percent of a core and memory in bytes, by the first 12 digits of the sandbox's id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    boxes: BTreeMap<String, (Option<f64>, Option<u64>)>,
}

impl Sample {
    /// What is in a scrape of that instant.
    ///
    /// # Errors
    /// It is not of a gateway: figures are missing that every one has.
    pub(crate) fn of(text: &str, at: i64, every: u64) -> anyhow::Result<Self> {
        let mut plain = BTreeMap::new();
        let mut buckets: BTreeMap<&str, Vec<(f64, u64)>> = BTreeMap::new();
        let mut boxes: BTreeMap<String, (Option<f64>, Option<u64>)> = BTreeMap::new();
        let mut pool = None;
        for Series { name, labels, value } in series(text) {
            let Some(name) = name.strip_prefix("coppice_") else { continue };
            if let (Some(of), Some(bound)) = (name.strip_suffix("_bucket"), labels.get("le")) {
                let bound = bound.parse().unwrap_or(f64::INFINITY);
                buckets.entry(of).or_default().push((bound, whole(value)));
            } else if let Some(place) = ["pool_total", "pool_allocated", "pool_available"]
                .iter()
                .position(|figure| *figure == name)
            {
                pool.get_or_insert([0; 3])[place] += whole(value);
            } else if let Some(sandbox) = labels.get("sandbox") {
                match name {
                    "sandbox_cpu_percent" => {
                        boxes.entry(sandbox.clone()).or_default().0 = Some(tenths(value));
                    }
                    "sandbox_memory_bytes" => {
                        boxes.entry(sandbox.clone()).or_default().1 = Some(whole(value));
                    }
                    _ => {}
                }
            } else if labels.is_empty() {
                plain.insert(name, value);
            }
        }
        let missing: Vec<_> = EVERY.iter().filter(|name| !plain.contains_key(**name)).collect();
        ensure!(missing.is_empty(), "this is not a gateway's: there is no coppice_{}", missing[0]);
        let count = |name: &str| plain.get(name).copied().map_or(0, whole);
        let histogram = |of: &str| apart(buckets.get(of).cloned().unwrap_or_default());
        Ok(Self {
            v: VERSION,
            at,
            every,
            up: tenths(plain["uptime_seconds"]),
            alive: count("sandboxes_alive"),
            kernels: count("kernels_alive"),
            created: count("sandboxes_created_total"),
            killed: count("sandboxes_killed_total"),
            paused: count("sandboxes_paused_total"),
            resumed: count("sandboxes_resumed_total"),
            execs: count("execute_requests_total"),
            errors: count("execute_errors_total"),
            spawns: count("kernel_spawns_total"),
            exits: count("kernel_exits_total"),
            create_ns: count("sandbox_create_ns_sum"),
            exec_ns: count("execute_ns_sum"),
            create: histogram("sandbox_create_duration_seconds"),
            exec: histogram("execute_duration_seconds"),
            pool,
            boxes,
        })
    }

    /// With its end of line.
    ///
    /// # Errors
    /// None is known.
    pub(crate) fn line(&self) -> anyhow::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// What every gateway tells.
const EVERY: [&str; 13] = [
    "uptime_seconds",
    "sandboxes_alive",
    "kernels_alive",
    "sandboxes_created_total",
    "sandboxes_killed_total",
    "sandboxes_paused_total",
    "sandboxes_resumed_total",
    "execute_requests_total",
    "execute_errors_total",
    "kernel_spawns_total",
    "kernel_exits_total",
    "sandbox_create_ns_sum",
    "execute_ns_sum",
];

/// The counts of buckets each of which holds those before it, taken apart.
fn apart(mut buckets: Vec<(f64, u64)>) -> Vec<u64> {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut before = 0;
    let mut counts: Vec<_> = buckets
        .into_iter()
        .map(|(_, so_far)| {
            let here = so_far.saturating_sub(before);
            before = so_far.max(before);
            here
        })
        .collect();
    while counts.last() == Some(&0) {
        counts.pop();
    }
    counts
}

fn whole(value: f64) -> u64 {
    // Saturates, and what is no number becomes 0.
    value.round() as u64
}

fn tenths(value: f64) -> f64 {
    if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(more: &str) -> String {
        let every = EVERY.iter().enumerate().map(|(n, name)| format!("coppice_{name} {n}\n"));
        every.collect::<String>() + more
    }

    fn line(text: &str) -> serde_json::Value {
        let sample = Sample::of(text, 1_700_000_000_000, 30).unwrap();
        let line = sample.line().unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn each_figure_has_its_place() {
        let line = line(&scrape(
            "coppice_pool_total{template=\"a\"} 4\ncoppice_pool_total{template=\"b\"} 1\n\
             coppice_pool_available{template=\"a\"} 3\ncoppice_pool_allocated{template=\"a\"} 1\n\
             coppice_sandbox_cpu_percent{sandbox=\"0123456789ab\",template=\"base\"} 99.96\n\
             coppice_sandbox_memory_bytes{sandbox=\"0123456789ab\",template=\"base\"} 4096\n\
             coppice_sandbox_processes{sandbox=\"0123456789ab\",template=\"base\"} 3\n\
             coppice_sandbox_create_duration_seconds_bucket{le=\"0.005\"} 2\n\
             coppice_sandbox_create_duration_seconds_bucket{le=\"0.01\"} 5\n\
             coppice_sandbox_create_duration_seconds_bucket{le=\"+Inf\"} 5\n",
        ));
        let expected = serde_json::json!({
            "v": 1, "at": 1_700_000_000_000_i64, "every": 30, "up": 0.0, "alive": 1, "kernels": 2,
            "created": 3, "killed": 4, "paused": 5, "resumed": 6, "execs": 7, "errors": 8,
            "spawns": 9, "exits": 10, "create_ns": 11, "exec_ns": 12, "create": [2, 3],
            "pool": [5, 1, 3], "boxes": {"0123456789ab": [100.0, 4096]},
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn what_is_not_told_is_not_there() {
        let line = line(&scrape("coppice_sandbox_cpu_percent{sandbox=\"a\"} 1\n"));
        assert!(line.get("pool").is_none() && line.get("create").is_none());
        assert_eq!(line["boxes"]["a"], serde_json::json!([1.0, null]));
    }

    #[test]
    fn a_line_without_sandboxes_is_about_three_hundred_bytes() {
        let busy = scrape("").replace("_ns_sum ", "_ns_sum 12345678901");
        let line = Sample::of(&busy, 1_795_381_200_123, 30).unwrap().line().unwrap();
        assert!((200..300).contains(&line.len()), "{}", String::from_utf8_lossy(&line));
    }

    #[test]
    fn what_is_no_gateways_is_an_error() {
        let text = scrape("").replace("coppice_kernels_alive", "other_kernels_alive");
        let error = Sample::of(&text, 0, 0).unwrap_err().to_string();
        assert!(error.ends_with("coppice_kernels_alive"), "{error}");
    }
}
