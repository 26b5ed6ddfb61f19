//! Prometheus' text format, as much as a sample needs of it: names, labels and values.

use std::collections::BTreeMap;

/// One series and its value.
#[derive(Debug, PartialEq)]
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: BTreeMap<&'a str, String>,
    pub(crate) value: f64,
}

/// Every series of a scrape; lines that are none are passed over.
pub(crate) fn series(text: &str) -> impl Iterator<Item = Series<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(parse)
}

fn parse(line: &str) -> Option<Series<'_>> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner.trim_start();
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once('=')?;
            let (value, after) = quoted(after.trim_start())?;
            labels.insert(label.trim(), value);
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        rest = &rest[1..];
    }
    // A time stamp may follow.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    (!name.is_empty()).then_some(Series { name, labels, value })
}

/// A value in quotes, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut letters = inner.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &inner[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn series_come_with_their_labels_and_values() {
        let text = "# HELP a_total What it is.\n# TYPE a_total counter\na_total 12\n\
                    b{sandbox=\"0123\",name=\"a \\\"b\\\" \\\\ \\n,}\",} 1.5e3 1700000000\nnonsense\nc{x=\"\n";
        let found: Vec<_> = series(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name, found[0].value), ("a_total", 12.0));
        assert_eq!((found[1].name, found[1].value), ("b", 1500.0));
        assert_eq!(found[1].labels["sandbox"], "0123");
        assert_eq!(found[1].labels["name"], "a \"b\" \\ \n,}");
    }

    proptest! {
        #[test]
        fn any_label_is_read_as_it_was_written(value in any::<String>(), number in any::<u32>()) {
            let escaped =
                value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
            // `lines` would take a carriage return at the end of one; none is there.
            let text = format!("name{{label=\"{escaped}\"}} {number}");
            let found: Vec<_> = series(&text).collect();
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].labels["label"], &value);
            prop_assert_eq!(found[0].value, f64::from(number));
        }

        #[test]
        fn nothing_makes_it_fail(text in "[a{}=\", \\\\\n0-9.]{0,40}") {
            let _ = series(&text).count();
        }
    }
}
