//! A result as a table for the eye.

use crate::report::{At, Of, Report};

pub(crate) fn print(report: &Report) {
    println!(
        "\n{}: {}, {} cores, {}",
        report.what, report.machine.cpu, report.machine.cores, report.machine.kernel
    );
    println!("gateway: {}; commit {}", report.gateway, report.commit);
    for note in &report.notes {
        println!("{note}");
    }
    println!();
    let mut rows = vec![
        ["", "", "", "count", "errors", "p50 ms", "p95 ms", "p99 ms", "max ms", "per s", "MB/s"]
            .map(str::to_owned),
    ];
    for series in &report.series {
        let ms = |value: f64| format!("{value:.2}");
        rows.push([
            series.what.clone(),
            series.who.clone(),
            series.how.clone(),
            series.count.to_string(),
            series.errors.to_string(),
            ms(series.p50),
            ms(series.p95),
            ms(series.p99),
            ms(series.max),
            format!("{:.0}", series.per_second),
            series.megabytes_per_second.map_or_else(String::new, |rate| format!("{rate:.0}")),
        ]);
    }
    print_aligned(&rows, 3);
    if !report.figures.is_empty() {
        println!();
        let mut rows = vec![["", "count", "mean", "max", ""].map(str::to_owned)];
        rows.extend(report.figures.iter().map(|figure| {
            let number = |value: f64| format!("{value:.2}");
            let (mean, max) = (number(figure.mean), number(figure.max));
            [figure.what.clone(), figure.count.to_string(), mean, max, figure.unit.clone()]
        }));
        print_aligned(&rows, 1);
    }
    if !report.ratios.is_empty() {
        println!();
        let mut rows =
            vec![["ours by theirs", "", "", "", "ratio", "lowest", "highest"].map(str::to_owned)];
        rows.extend(report.ratios.iter().map(|ratio| {
            let of = match ratio.of {
                Of::P50 => "p50, less is better",
                Of::Throughput => "throughput, more is better",
            };
            let number = |value: f64| format!("{value:.2}");
            let (ratio_, low, high) =
                (number(ratio.ratio), number(ratio.lowest), number(ratio.highest));
            [
                ratio.what.clone(),
                ratio.how.clone(),
                ratio.peer.clone(),
                of.to_owned(),
                ratio_,
                low,
                high,
            ]
        }));
        print_aligned(&rows, 4);
    }
    if !report.aims.is_empty() {
        println!();
        let mut rows = vec![["aim", "", "measured", "verdict"].map(str::to_owned)];
        rows.extend(report.aims.iter().map(|aim| {
            let at = match aim.at {
                At::Most => "at most",
                At::Least => "at least",
            };
            [
                aim.aim.clone(),
                format!("{at} {:.2} {}", aim.bound, aim.unit).trim_end().to_owned(),
                format!("{:.2} {}", aim.measured, aim.unit).trim_end().to_owned(),
                aim.verdict.text().to_owned(),
            ]
        }));
        print_aligned(&rows, 4);
    }
    for series in report.series.iter().filter(|series| series.errors > 0) {
        let first = series.first_error.as_deref().unwrap_or_default();
        println!("\nERRORS: {} of {}, {}: first: {first}", series.errors, series.what, series.who);
    }
    if report.quick {
        println!("\nA quick run: the figures mean nothing.");
    }
}

/// The first `left` columns to the left, the others to the right.
fn print_aligned<const N: usize>(rows: &[[String; N]], left: usize) {
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(n, (cell, &width))| {
            if n < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
