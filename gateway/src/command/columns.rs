//! Lists for people and their scripts, aligned as kubectl's are.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde_json::Value;

/// Between columns.
const GAP: usize = 3;

/// How what was asked for is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    /// With more columns.
    Wide,
    /// As the API answers it.
    Json,
}

/// The first row is the heading.
pub(crate) fn table(out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| rows.iter().filter_map(|row| Some(row.get(at)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or_default() + GAP).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<String>().trim_end())?;
    }
    Ok(())
}

/// Whatever there is in that field; what is for people may not look like another line or column.
pub(crate) fn field(value: &Value, name: &str) -> String {
    match value.pointer(name) {
        None | Some(Value::Null) => "<none>".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "<none>".to_owned(),
        Some(Value::String(text)) => text.escape_debug().to_string(),
        Some(other) => other.to_string(),
    }
}

/// For how long it has been there, as kubectl tells it: `45s`, `10m`, `5h12m`, `3d`.
pub(crate) fn age(value: &Value, name: &str, now: DateTime<Utc>) -> String {
    let at = value.pointer(name).and_then(Value::as_str);
    let at = at.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let Some(at) = at else { return "<unknown>".to_owned() };
    let seconds = (now - at.to_utc()).num_seconds().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |whole: i64, unit: &str, rest: i64, of: &str| match rest {
        0 => format!("{whole}{unit}"),
        _ => format!("{whole}{unit}{rest}{of}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => with(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => with(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => with(days, "d", hours % 24, "h"),
        () => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [vec!["NAME", "AGE"], vec!["a-long-name", "1s"], vec!["ä", "10m"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let mut out = Vec::new();
        table(&mut out, &rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "NAME          AGE\na-long-name   1s\nä             10m\n");
        table(&mut io::sink(), &[]).unwrap();
    }

    #[test]
    fn ages_are_told_as_kubectl_tells_them() {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        for (at, told) in [
            ("2026-11-23T11:59:15Z", "45s"),
            ("2026-11-23T11:50:00.000Z", "10m"),
            ("2026-11-23T11:56:30Z", "3m30s"),
            ("2026-11-23T06:48:00Z", "5h12m"),
            ("2026-11-22T12:00:00Z", "24h"),
            ("2026-11-20T12:00:00Z", "3d"),
            ("2026-01-20T12:00:00Z", "307d"),
            ("2027-01-20T12:00:00Z", "0s"),
        ] {
            assert_eq!(age(&json!({"at": at}), "/at", now), told, "{at}");
        }
        assert_eq!(age(&json!({}), "/at", now), "<unknown>");
    }

    #[test]
    fn a_field_is_one_cell_whatever_is_in_it() {
        let value = json!({"a": {"b": 5}, "text": "x\ny", "empty": "", "null": null});
        let told = ["/a/b", "/text", "/empty", "/null", "/none"].map(|name| field(&value, name));
        assert_eq!(told, ["5", "x\\ny", "<none>", "<none>", "<none>"]);
    }
}
