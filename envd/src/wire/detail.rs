//! What a report says beyond what is counted: commands, output, paths. For the gateway's events.
//!
//! A gateway from before these reads lines of [`MAX_REPORT`] and the types of [`What`] alone, and
//! ends the stream at any other. So a detail comes as a text of JSON in one `part` of the line that
//! it belongs to, or, where it is longer, in those of lines before it, which have `more` and are
//! otherwise a file read of no byte: such a gateway passes over them. What is nothing that it knows
//! comes with such a line too.

use serde::{Deserialize, Serialize};

use super::{Report, What};
use crate::trace::TraceId;

/// Of a process's output, each kind, and of code, the beginning that is told (bytes) is no more
/// than this,
pub const MAX_OUTPUT: usize = 4 << 10;

/// and so much beyond it, by which whoever looks for secrets recognizes one that would be cut.
pub const MARGIN: usize = 512;

/// Of any other text as well.
pub const MAX_TEXT: usize = MAX_OUTPUT + MARGIN;

/// A detail is no longer (bytes of JSON): two texts of which each byte is written as six.
pub const MAX_DETAIL: usize = 64 << 10;

/// Of a detail in one line, as it is written there (bytes).
const PART: usize = 3 << 10;

/// See [`What`] for what each comes with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// Of the request that it was done for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
    #[serde(flatten)]
    pub of: Of,
}

/// Paths are as they were asked for, but absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Of {
    /// With [`What::ProcessStarted`].
    Started {
        command: String,
        cwd: String,
        #[serde(default)]
        pty: bool,
    },
    /// With [`What::ProcessEnded`]. What a terminal shows is in `stdout`.
    Ended {
        #[serde(default)]
        stdout: String,
        #[serde(default)]
        stderr: String,
        /// All there was, in bytes.
        #[serde(default)]
        stdout_bytes: u64,
        #[serde(default)]
        stderr_bytes: u64,
        /// It was killed when so much time was over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        /// Which ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// With nothing.
    NotStarted {
        command: String,
        cwd: String,
        error: String,
    },
    /// With [`What::FileRead`], which has the size.
    Read {
        path: String,
    },
    /// With [`What::FileWritten`], which has the size.
    Written {
        path: String,
        /// It was not there before.
        created: bool,
    },
    /// With nothing.
    Removed {
        path: String,
    },
    Moved {
        from: String,
        to: String,
        /// What it is long (bytes).
        #[serde(default)]
        size: u64,
    },
    DirectoryMade {
        path: String,
    },
    /// With [`What::CodeExecuted`].
    Code {
        code: String,
    },
    /// Of a newer envd.
    #[serde(other)]
    Other,
}

/// Cut to [`MAX_TEXT`].
pub fn text(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

/// The parts a detail's text comes in; at least one.
pub(crate) fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::with_capacity(1);
    let (mut begin, mut length) = (0, 0);
    // As a string in JSON: nothing in it is a control character, being JSON itself.
    for (at, char) in text.char_indices() {
        let written = if matches!(char, '"' | '\\') { 2 } else { char.len_utf8() };
        if length + written > PART {
            parts.push(&text[begin..at]);
            (begin, length) = (at, 0);
        }
        length += written;
    }
    parts.push(&text[begin..]);
    parts
}

/// Puts the parts of a stream's details together.
#[derive(Debug, Default)]
pub struct Assembly {
    text: String,
    /// The number of the line that its last part came with.
    last: u64,
}

impl Assembly {
    /// What the line says, once its last part is there; `None` for all before that.
    pub fn take(&mut self, mut report: Report) -> Option<(Report, Option<Detail>)> {
        let follows = self.last.checked_add(1) == Some(report.seq);
        if !follows || self.text.len() + report.part.len() > MAX_DETAIL {
            self.text.clear();
        }
        self.last = report.seq;
        let part = std::mem::take(&mut report.part);
        if report.more {
            self.text.push_str(&part);
            return None;
        }
        let before = std::mem::take(&mut self.text);
        let whole = if before.is_empty() { part } else { before + &part };
        // A part may be missing, or it is nonsense.
        let detail = if whole.is_empty() { None } else { serde_json::from_str(&whole).ok() };
        Some((report, detail))
    }
}

impl What {
    /// Which counts for nothing.
    pub const NOTHING: Self = Self::FileRead { bytes: 0 };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::MAX_REPORT, *};
    use crate::report::Reports;

    fn detail() -> impl Strategy<Value = Detail> {
        let text = || "\\PC{0,9}|[\"\\\\\u{0}\n\u{7f}ü]{0,4608}".prop_map(|long| text(&long));
        let of = prop_oneof![
            (text(), text(), any::<bool>()).prop_map(|(command, cwd, pty)| Of::Started {
                command,
                cwd,
                pty
            }),
            (text(), text(), any::<(u64, u64, Option<u64>)>(), proptest::option::of(text()))
                .prop_map(|(stdout, stderr, numbers, signal)| {
                    let (stdout_bytes, stderr_bytes, timeout_ms) = numbers;
                    Of::Ended { stdout, stderr, stdout_bytes, stderr_bytes, timeout_ms, signal }
                }),
            (text(), "[a-z]", text()).prop_map(|(command, cwd, error)| Of::NotStarted {
                command,
                cwd,
                error
            }),
            text().prop_map(|path| Of::Read { path }),
            (text(), any::<bool>()).prop_map(|(path, created)| Of::Written { path, created }),
            text().prop_map(|path| Of::Removed { path }),
            (text(), text(), any::<u64>()).prop_map(|(from, to, size)| Of::Moved {
                from,
                to,
                size
            }),
            text().prop_map(|path| Of::DirectoryMade { path }),
            text().prop_map(|code| Of::Code { code }),
        ];
        let trace = any::<[u8; 16]>().prop_map(TraceId::of);
        (trace, of).prop_map(|(trace, of)| Detail { trace, of })
    }

    /// As an older gateway reads a line.
    #[derive(Deserialize)]
    struct Older {
        seq: u64,
        #[serde(flatten)]
        what: OlderWhat,
    }

    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum OlderWhat {
        FileRead { bytes: u64 },
        FileWritten {},
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn details_are_put_together_as_they_were_and_older_gateways_read_the_lines(
            details in prop::collection::vec(detail(), 1..4),
            from in 0..4_u64,
        ) {
            let reports = Reports::default();
            for detail in &details {
                reports.tell(What::FileWritten { bytes: 1 }, detail);
            }
            let mut assembly = Assembly::default();
            let (mut last, mut read) = (from, Vec::new());
            for report in reports.now_after(from) {
                let line = serde_json::to_string(&report).unwrap();
                prop_assert!(line.len() < MAX_REPORT && !line.contains('\n'), "{}", line.len());
                let older: Older = serde_json::from_str(&line).unwrap();
                prop_assert_eq!(older.seq, last + 1);
                last += 1;
                let nothing = matches!(older.what, OlderWhat::FileRead { bytes: 0 });
                prop_assert_eq!(nothing, report.more);
                read.extend(assembly.take(serde_json::from_str(&line).unwrap()));
            }
            if from == 0 {
                prop_assert_eq!(read.len(), details.len());
            }
            let skipped = details.len() - read.len();
            for (at, (written, (report, read))) in details[skipped..].iter().zip(read).enumerate() {
                prop_assert_eq!(report.what, What::FileWritten { bytes: 1 });
                // Of the first the beginning may be missing.
                prop_assert!(read.as_ref() == Some(written) || (at == 0 && from > 0));
            }
        }

        #[test]
        fn whatever_comes_as_parts_takes_bounded_room(
            lines in prop::collection::vec((any::<bool>(), 0..3_u64, "[{}\":a-z]{0,40}"), 0..20),
        ) {
            let (mut assembly, mut seq) = (Assembly::default(), 0);
            for (more, step, part) in lines {
                seq += step;
                let (part, what) = (part.repeat(100), What::NOTHING);
                assembly.take(Report { seq, at: 0, kernels: 0, commands: 0, what, more, part });
                prop_assert!(assembly.text.len() <= MAX_DETAIL);
            }
        }
    }

    #[test]
    fn a_detail_of_a_newer_envd_is_one_that_says_nothing() {
        let read: Detail = serde_json::from_str(r#"{"of":"teleported","to":"/"}"#).unwrap();
        assert_eq!(read, Detail { trace: None, of: Of::Other });
    }
}
