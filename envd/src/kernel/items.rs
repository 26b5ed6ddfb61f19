//! The lines a client of `/execute` reads: one JSON object each, and the keys that a kernel's MIME
//! bundle becomes.
//!
//! What a kernel said in JSON is passed on as it stands, but in ASCII and on one line.

use std::{borrow::Cow, collections::BTreeMap, io::Write};

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// MIME types that have keys of their own; all others are kept under `extra`.
const KEYS: [(&str, &str); 12] = [
    ("text/plain", "text"),
    ("text/html", "html"),
    ("text/markdown", "markdown"),
    ("image/svg+xml", "svg"),
    ("image/png", "png"),
    ("image/jpeg", "jpeg"),
    ("application/pdf", "pdf"),
    ("text/latex", "latex"),
    ("application/json", "json"),
    ("application/javascript", "javascript"),
    ("e2b/data", "data"),
    ("e2b/chart", "chart"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

/// Whole lines that have not been sent yet.
#[derive(Default)]
pub(super) struct Lines(pub(super) Vec<u8>);

/// What a kernel shows: its `display_data` or `execute_result`.
#[derive(Deserialize)]
pub(super) struct Shown<'a> {
    #[serde(borrow)]
    data: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Error { name: &'a str, value: &'a str, traceback: &'a str },
    NumberOfExecutions { execution_count: i64 },
    Keepalive,
    EndOfExecution,
}

impl Output {
    pub(super) fn named(name: &str) -> Self {
        if name == "stderr" { Self::Stderr } else { Self::Stdout }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl Lines {
    pub(super) fn error(&mut self, name: &str, value: &str, traceback: &str) {
        self.line(&Line::Error { name, value, traceback });
    }

    pub(super) fn number_of_executions(&mut self, execution_count: i64) {
        self.line(&Line::NumberOfExecutions { execution_count });
    }

    pub(super) fn keepalive(&mut self) {
        self.line(&Line::Keepalive);
    }

    pub(super) fn end_of_execution(&mut self) {
        self.line(&Line::EndOfExecution);
    }

    /// `escaped` is the inside of a JSON string.
    pub(super) fn output(&mut self, output: Output, escaped: &[u8]) {
        let name = output.name();
        self.raw(format_args!(r#"{{"type":"{name}","text":""#));
        self.pass(escaped);
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        self.raw(format_args!("\",\"timestamp\":\"{now}\"}}\n"));
    }

    /// Output of envd's own.
    pub(super) fn say(&mut self, output: Output, text: &str) {
        let escaped = quoted(text);
        self.output(output, &escaped.as_bytes()[1..escaped.len() - 1]);
    }

    pub(super) fn result(&mut self, shown: &Shown<'_>, is_main_result: bool) {
        self.raw(format_args!(r#"{{"type":"result","is_main_result":{is_main_result}"#));
        for (mime, key) in KEYS {
            if let Some(value) = shown.data.get(mime) {
                self.raw(format_args!(r#","{key}":"#));
                let unquoted = (key == "text").then(|| unquoted(value)).flatten();
                self.pass(unquoted.as_deref().unwrap_or(value.get()).as_bytes());
            }
        }
        self.raw(format_args!(r#","extra":{{"#));
        let others = shown.data.iter().filter(|(mime, _)| KEYS.iter().all(|(own, _)| own != mime));
        for (n, (mime, value)) in others.enumerate() {
            let comma = if n == 0 { "" } else { "," };
            self.raw(format_args!("{comma}"));
            self.pass(quoted(mime).as_bytes());
            self.raw(format_args!(":"));
            self.pass(value.get().as_bytes());
        }
        self.0.extend_from_slice(b"}}\n");
    }

    fn line(&mut self, line: &Line<'_>) {
        self.pass(json(line).as_bytes());
        self.raw(format_args!("\n"));
    }

    /// JSON that is a kernel's, or has something of it, in ASCII and on one line, as E2B's own
    /// server writes it. Its SDKs rely on that: Python's ends lines where `splitlines` does, and
    /// JavaScript's decodes every block it receives by itself, wherever that was cut.
    fn pass(&mut self, json: &[u8]) {
        if json.is_ascii() && !json.contains(&b'\n') && !json.contains(&b'\r') {
            return self.0.extend_from_slice(json);
        }
        for character in String::from_utf8_lossy(json).chars() {
            match u8::try_from(character) {
                // Only between tokens, where they mean nothing.
                Ok(b'\n' | b'\r') => {}
                Ok(byte) if byte.is_ascii() => self.0.push(byte),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.raw(format_args!("\\u{unit:04x}"));
                    }
                }
            }
        }
    }

    fn raw(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("memory can be written to");
    }
}

/// A text that a kernel shows in quotes is shown without.
fn unquoted(value: &RawValue) -> Option<String> {
    let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(value.get()).ok()?.0;
    let inside = ['\'', '"']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)))?;
    Some(quoted(inside))
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// As a JSON string.
pub(super) fn quoted(text: &str) -> String {
    json(&text)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text and numbers can be written as JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The only line of `lines`, without its `timestamp`.
    fn only(lines: Lines) -> Value {
        let text = String::from_utf8(lines.0).unwrap();
        let line = text.strip_suffix('\n').expect("a line");
        assert!(!line.contains('\n'), "{line}");
        let mut value: Value = serde_json::from_str(line).unwrap();
        if let Some(timestamp) = value.as_object_mut().unwrap().remove("timestamp") {
            chrono::DateTime::parse_from_rfc3339(timestamp.as_str().unwrap()).unwrap();
        }
        value
    }

    fn result(content: &str, main: bool) -> Value {
        let mut lines = Lines::default();
        lines.result(&serde_json::from_str(content).unwrap(), main);
        only(lines)
    }

    #[test]
    fn every_mime_type_has_its_key_and_the_others_are_extra() {
        let content = json!({"data": {
            "text/plain": "<Figure>", "text/html": "<p>", "text/markdown": "# m",
            "image/svg+xml": "<svg>", "image/png": "cG5n\n", "image/jpeg": "anBn",
            "application/pdf": "cGRm", "text/latex": "$x$", "application/json": {"a": [1, null]},
            "application/javascript": "1", "e2b/data": {"c": [1]}, "e2b/chart": {"type": "pie"},
            "application/vnd.plotly.v1+json": {"x": 1}, "a\"b": 1,
        }, "metadata": {}});
        let expect = json!({
            "type": "result", "is_main_result": false, "text": "<Figure>", "html": "<p>",
            "markdown": "# m", "svg": "<svg>", "png": "cG5n\n", "jpeg": "anBn", "pdf": "cGRm",
            "latex": "$x$", "json": {"a": [1, null]}, "javascript": "1", "data": {"c": [1]},
            "chart": {"type": "pie"},
            "extra": {"application/vnd.plotly.v1+json": {"x": 1}, "a\"b": 1},
        });
        assert_eq!(result(&content.to_string(), false), expect);
        let nothing = json!({"type": "result", "is_main_result": true, "extra": {}});
        assert_eq!(result(r#"{"data":{},"execution_count":3}"#, true), nothing);
    }

    #[test]
    fn quotes_around_a_text_are_taken_off_once_and_only_in_pairs() {
        for (text, expect) in [
            ("'a'", "a"),
            ("\"it's\"", "it's"),
            ("''a''", "'a'"),
            ("'a\"", "'a\""),
            ("'", "'"),
            ("", ""),
            ("['a']", "['a']"),
            ("'\\n\u{1f600}'", "\\n\u{1f600}"),
        ] {
            let content = json!({"data": {"text/plain": text}}).to_string();
            assert_eq!(result(&content, true)["text"], expect, "{text}");
        }
    }

    #[test]
    fn line_breaks_between_a_kernels_tokens_break_no_line() {
        let content = "{\"data\": {\"application/json\": {\n\"a\":\r\n [1,\n2]}, \"x/y\":\n[\n]}}";
        let result = result(content, true);
        assert_eq!(
            (&result["json"], &result["extra"]),
            (&json!({"a": [1, 2]}), &json!({"x/y": []}))
        );
    }

    #[test]
    fn no_character_ends_a_line_for_anybody_or_can_be_cut() {
        let separators = "a\u{85}b\u{2028}c\u{2029}d\u{b}\u{c}\u{1c}\u{1d}\u{1e}\n\ré😀";
        let shown = json!({"data": {"text/plain": separators, separators: separators}});
        let shown = shown.to_string();
        let mut lines = Lines::default();
        lines.result(&serde_json::from_str(&shown).unwrap(), true);
        lines.error(separators, separators, "");
        lines.say(Output::Stdout, separators);
        let text = String::from_utf8(lines.0).unwrap();
        let ends = |c: char| c.is_control() && c != '\n';
        assert!(text.is_ascii() && !text.contains(ends), "{text}");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["text"], separators);
        assert_eq!(lines[0]["extra"][separators], separators);
        assert_eq!(
            (&lines[1]["value"], &lines[2]["text"]),
            (&json!(separators), &json!(separators))
        );
    }

    #[test]
    fn output_is_passed_on_as_it_is_escaped() {
        let mut lines = Lines::default();
        lines.output(Output::Stderr, br#"a\nb\ud83d\ude00"#);
        let expect = json!({"type": "stderr", "text": "a\nb\u{1f600}"});
        assert_eq!(only(lines), expect);
        let mut lines = Lines::default();
        lines.say(Output::Stdout, "\"\n");
        assert_eq!(only(lines), json!({"type": "stdout", "text": "\"\n"}));
    }

    #[test]
    fn the_other_lines_are_as_clients_read_them() {
        let check = |write: fn(&mut Lines), expect| {
            let mut lines = Lines::default();
            write(&mut lines);
            assert_eq!(only(lines), expect);
        };
        check(
            |lines| lines.error("E", "v\n", ""),
            json!({"type": "error", "name": "E", "value": "v\n", "traceback": ""}),
        );
        check(
            |lines| lines.number_of_executions(3),
            json!({"type": "number_of_executions", "execution_count": 3}),
        );
        check(Lines::keepalive, json!({"type": "keepalive"}));
        check(Lines::end_of_execution, json!({"type": "end_of_execution"}));
    }
}
