//! Results as markdown, for README.md: made from the JSON, worst figures included, never typed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

use crate::{
    report::{At, Of, Report},
    what::What,
};

const BEGIN: &str = "<!-- benchmark: made by `bench table`, not by hand -->";
const END: &str = "<!-- end of benchmark -->";

pub(crate) fn make(results: &[PathBuf], into: Option<&Path>) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for path in results {
        let report = Report::read(path)?;
        ensure!(!report.quick, "{}: a quick run, whose figures mean nothing", path.display());
        reports.push(report);
    }
    let place = |report: &Report| What::ALL.iter().position(|what| what.name() == report.what);
    reports.sort_by_key(place);
    let section = markdown(&reports);
    match into {
        None => print!("{section}"),
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let text = replace(&text, &section).with_context(|| path.display().to_string())?;
            fs::write(path, text).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// `text` with `section` between its markers.
fn replace(text: &str, section: &str) -> anyhow::Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

fn markdown(reports: &[Report]) -> String {
    let parts = [
        measured_on(reports),
        aims(reports),
        "All series; times in milliseconds, `max` is the worst there was:".to_owned(),
        series(reports),
        figures(reports),
        "<details><summary>Ours by theirs</summary>".to_owned(),
        "Turn by turn in the same run: of all rounds, and of the lowest and the highest."
            .to_owned(),
        ratios(reports),
        "</details>".to_owned(),
    ];
    let parts = parts.into_iter().filter(|part| !part.is_empty()).map(|part| part + "\n");
    parts.collect::<Vec<_>>().join("\n")
}

/// Nothing where there are no rows.
fn rows(head: &str, rows: impl Iterator<Item = String>) -> String {
    // Without the spaces that an empty unit leaves.
    let rows: Vec<String> = rows.map(|row| row.replace("  |", " |")).collect();
    if rows.is_empty() { String::new() } else { format!("{head}\n{}", rows.join("\n")) }
}

fn aims(reports: &[Report]) -> String {
    let aims = reports.iter().flat_map(|report| &report.aims).map(|aim| {
        let at = match aim.at {
            At::Most => "≤",
            At::Least => "≥",
        };
        let (unit, verdict) = (&aim.unit, aim.verdict.text());
        let (bound, measured) = (number(aim.bound), number(aim.measured));
        format!("| {} | {at} {bound} {unit} | {measured} {unit} | {verdict} |", aim.aim)
    });
    rows("| aim | wanted | measured | |\n|---|---|---|---|", aims)
}

fn series(reports: &[Report]) -> String {
    let head = "| what | who | how | count | errors | p50 | p95 | p99 | max | /s | MB/s |\n\
                |---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|";
    let series = reports.iter().flat_map(|report| &report.series).map(|series| {
        let rate = series.megabytes_per_second.map_or_else(String::new, number);
        let times = [series.p50, series.p95, series.p99, series.max].map(number).join(" | ");
        let (what, who, how) = (&series.what, &series.who, &series.how);
        let (count, errors, per_second) = (series.count, series.errors, number(series.per_second));
        format!("| {what} | {who} | {how} | {count} | {errors} | {times} | {per_second} | {rate} |")
    });
    rows(head, series)
}

fn figures(reports: &[Report]) -> String {
    let figures = reports.iter().flat_map(|report| &report.figures).map(|figure| {
        let (mean, max, unit) = (number(figure.mean), number(figure.max), &figure.unit);
        format!("| {} | {} | {mean} {unit} | {max} {unit} |", figure.what, figure.count)
    });
    rows("| memory and the like | count | mean | max |\n|---|--:|--:|--:|", figures)
}

fn ratios(reports: &[Report]) -> String {
    let ratios = reports.iter().flat_map(|report| &report.ratios).map(|ratio| {
        let of = match ratio.of {
            Of::P50 => "p50 (less is better)",
            Of::Throughput => "throughput (more is better)",
        };
        let (what, how, peer) = (&ratio.what, &ratio.how, &ratio.peer);
        let (whole, low, high) = (number(ratio.ratio), number(ratio.lowest), number(ratio.highest));
        format!("| {what} | {how} | {peer} | {of} | {whole} | {low} to {high} |")
    });
    rows("| what | how | peer | of | ratio | rounds |\n|---|---|---|---|--:|---|", ratios)
}

/// Once for all that have it in common.
fn measured_on(reports: &[Report]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for report in reports {
        let machine = &report.machine;
        let day = report.date.get(..10).unwrap_or(&report.date);
        let gib = machine.memory_mib as f64 / 1024.0;
        let line = format!(
            "Measured on {day} on {}, {} cores, {gib:.0} GiB, {}, at commit {}, by `{}`:",
            machine.cpu, machine.cores, machine.kernel, report.commit, report.command
        );
        let what = &report.what;
        match lines.iter_mut().find(|known| known.starts_with(&line)) {
            Some(known) => known.push_str(&format!(", {what}")),
            None => lines.push(format!("{line} {what}")),
        }
    }
    lines.iter().map(|line| format!("- {line}.")).collect::<Vec<_>>().join("\n")
}

/// Three digits that mean something, as far as there are.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.round() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::Tally;

    fn report() -> Report {
        let mut report = Report::new("create", false, "x".into());
        let mut tally = Tally::default();
        tally.count_as(Duration::from_millis(4), Ok(0));
        tally.count_as(Duration::from_millis(777), Ok(0));
        report.series("create", "coppice", "one at a time", &tally);
        report.aim("cold create, p50", At::Most, 10.0, "ms", 12.345);
        report.figures("PSS", "MB", &[1.0, 2.0]);
        report
    }

    #[test]
    fn the_table_has_machine_date_command_and_the_worst() {
        let report = report();
        let text = markdown(std::slice::from_ref(&report));
        for part in [
            &report.machine.cpu,
            &report.date[..10],
            &report.command,
            &report.commit,
            "| cold create, p50 | ≤ 10 ms | 12.3 ms | within twice |",
            "| 777 |",
            "| PSS | 2 | 1.50 MB | 2 MB |",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let second = Report { date: report.date.clone(), ..self::report() };
        assert_eq!(measured_on(&[report, second]).lines().count(), 1);
    }

    #[test]
    fn it_takes_the_place_between_the_markers_and_nothing_else() {
        let before = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let after = replace(&before, "new\n").unwrap();
        assert_eq!(after, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replace(&after, "new\n").unwrap(), after);
        assert!(replace("a", "new").is_err());
    }
}
