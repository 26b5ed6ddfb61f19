//! One execution, as its client sees it: what a kernel says about it becomes lines. Knows neither
//! sockets nor time.

use std::{borrow::Cow, mem};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    channel::{Incoming, Room},
    items::{Lines, Output, Shown},
    output::LongOutput,
};

/// From the request to the end of its last line.
#[derive(Default)]
pub(super) struct Execution {
    pub(super) lines: Lines,
    /// Of the long content among the lines.
    room: Vec<Room>,
    long: Option<LongOutput>,
    /// Its number has been told.
    counted: bool,
    /// Its error has been told; there is one at most.
    failed: bool,
    /// The kernel has nothing more to show for it.
    idle: bool,
    replied: bool,
}

struct Roomy {
    lines: Vec<u8>,
    _room: Vec<Room>,
}

impl AsRef<[u8]> for Roomy {
    fn as_ref(&self) -> &[u8] {
        &self.lines
    }
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    execution_state: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Input {
    execution_count: i64,
}

#[derive(Deserialize)]
struct Stream<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    text: &'a RawValue,
}

#[derive(Deserialize)]
struct Error {
    #[serde(default)]
    ename: String,
    #[serde(default)]
    evalue: String,
    #[serde(default)]
    traceback: Vec<String>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    execution_count: Option<i64>,
}

impl Execution {
    /// What the kernel publishes.
    pub(super) fn published(&mut self, incoming: Incoming) {
        let taken = match incoming {
            Incoming::Message { kind, content, room } => {
                self.room.extend(room);
                self.message(&kind, &content)
            }
            Incoming::Output { piece, ends } => {
                let long = self.long.get_or_insert_default();
                let lines = &mut self.lines;
                let taken = long.take(&piece, |output, escaped| lines.output(output, escaped));
                if ends {
                    self.long = None;
                }
                if taken.is_err() {
                    self.leave_out("an output that cannot be read");
                }
                Ok(())
            }
            Incoming::TooLong { kind, length } => {
                let what = if kind == "display_data" { "a display" } else { "a result" };
                self.leave_out(&format!("{what} of {} MiB", length >> 20));
                Ok(())
            }
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "a message that cannot be read");
        }
    }

    fn message(&mut self, kind: &str, content: &[u8]) -> serde_json::Result<()> {
        match kind {
            "status" => {
                let status: Status<'_> = serde_json::from_slice(content)?;
                self.idle |= status.execution_state == "idle";
            }
            "execute_input" => {
                let input: Input = serde_json::from_slice(content)?;
                self.count(input.execution_count);
            }
            "stream" => {
                let stream: Stream<'_> = serde_json::from_slice(content)?;
                let text = stream.text.get().as_bytes();
                if let [b'"', escaped @ .., b'"'] = text
                    && !escaped.is_empty()
                {
                    self.lines.output(Output::named(&stream.name), escaped);
                }
            }
            "display_data" | "execute_result" => {
                let shown: Shown<'_> = serde_json::from_slice(content)?;
                self.lines.result(&shown, kind == "execute_result");
            }
            "error" => {
                let error: Error = serde_json::from_slice(content)?;
                self.fail(&error.ename, &error.evalue, &error.traceback.join("\n"));
            }
            _ => {}
        }
        Ok(())
    }

    /// What the kernel answers.
    pub(super) fn answered(&mut self, incoming: Incoming) {
        let Incoming::Message { kind, content, .. } = incoming else { return };
        if kind != "execute_reply" {
            return;
        }
        self.replied = true;
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(&content) else { return };
        match &*reply.status {
            "error" => {
                if let Ok(error) = serde_json::from_slice::<Error>(&content) {
                    self.fail(&error.ename, &error.evalue, &error.traceback.join("\n"));
                }
            }
            "aborted" | "abort" => self.fail("ExecutionAborted", "Execution was aborted", ""),
            _ => {}
        }
        // Not every kernel publishes what it takes in.
        if let Some(count) = reply.execution_count {
            self.count(count);
        }
    }

    /// All lines there are. What they take of the room for long content goes with them.
    pub(super) fn take(&mut self) -> Bytes {
        let lines = mem::take(&mut self.lines.0);
        match mem::take(&mut self.room) {
            room if room.is_empty() => lines.into(),
            room => Bytes::from_owner(Roomy { lines, _room: room }),
        }
    }

    pub(super) fn fail(&mut self, name: &str, value: &str, traceback: &str) {
        if !self.failed {
            self.failed = true;
            self.lines.error(name, value, traceback);
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle
    }

    pub(super) fn is_replied(&self) -> bool {
        self.replied
    }

    fn count(&mut self, count: i64) {
        if !self.counted {
            self.counted = true;
            self.lines.number_of_executions(count);
        }
    }

    fn leave_out(&mut self, what: &str) {
        self.lines.say(Output::Stderr, &format!("{what} was left out\n"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn message(kind: &str, content: Value) -> Incoming {
        let content = content.to_string().into_bytes();
        Incoming::Message { kind: kind.to_owned(), content, room: None }
    }

    fn lines(execution: &Execution) -> Vec<Value> {
        let lines = std::str::from_utf8(&execution.lines.0).unwrap().lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn types(execution: &Execution) -> Vec<String> {
        lines(execution).iter().map(|line| line["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn lines_come_in_the_kernels_order() {
        let mut execution = Execution::default();
        for (kind, content) in [
            ("status", json!({"execution_state": "busy"})),
            ("execute_input", json!({"code": "…", "execution_count": 7})),
            ("stream", json!({"name": "stdout", "text": "a\n"})),
            ("display_data", json!({"data": {"text/plain": "1"}, "metadata": {}})),
            ("stream", json!({"name": "stderr", "text": "b"})),
            ("stream", json!({"name": "stdout", "text": ""})),
            ("clear_output", json!({"wait": true})),
            ("execute_result", json!({"data": {"text/plain": "2"}, "execution_count": 7})),
        ] {
            execution.published(message(kind, content));
        }
        assert!(!execution.is_idle());
        execution.answered(message("execute_reply", json!({"status": "ok", "execution_count": 7})));
        execution.published(message("status", json!({"execution_state": "idle"})));
        assert!(execution.is_idle() && execution.is_replied() && !execution.has_failed());
        let expect = ["number_of_executions", "stdout", "result", "stderr", "result"];
        assert_eq!(types(&execution), expect);
        let lines = lines(&execution);
        assert_eq!(lines[0]["execution_count"], 7);
        assert_eq!(
            (&lines[2]["is_main_result"], &lines[4]["is_main_result"]),
            (&json!(false), &json!(true))
        );
    }

    #[test]
    fn only_the_first_error_is_told() {
        let mut execution = Execution::default();
        let error =
            json!({"ename": "E", "evalue": "v", "traceback": ["a", "b"], "status": "error"});
        execution.published(message("error", error.clone()));
        execution.published(message("error", json!({"ename": "F", "evalue": "", "traceback": []})));
        execution.answered(message("execute_reply", error));
        execution.fail("ContextRestarting", "Context was restarted", "");
        let expect = json!({"type": "error", "name": "E", "value": "v", "traceback": "a\nb"});
        assert_eq!(lines(&execution), [expect]);
    }

    #[test]
    fn an_error_and_a_number_may_come_with_the_reply_alone() {
        let mut execution = Execution::default();
        execution
            .answered(message("execute_reply", json!({"status": "aborted", "execution_count": 2})));
        assert_eq!(types(&execution), ["error", "number_of_executions"]);
        assert_eq!(lines(&execution)[0]["name"], "ExecutionAborted");
    }

    #[test]
    fn what_is_too_long_or_unreadable_is_said_to_be_left_out() {
        let mut execution = Execution::default();
        execution.published(Incoming::TooLong { kind: "display_data".into(), length: 80 << 20 });
        let piece = bytes::Bytes::from(vec![b'['; 1000]);
        execution.published(Incoming::Output { piece, ends: true });
        let piece = bytes::Bytes::from_static(b"{\"name\":\"stdout\",\"text\":\"a\"}");
        execution.published(Incoming::Output { piece, ends: true });
        let texts: Vec<_> = lines(&execution).iter().map(|line| line["text"].clone()).collect();
        let expect = [
            "a display of 80 MiB was left out\n",
            "an output that cannot be read was left out\n",
            "a",
        ];
        assert_eq!(texts, expect);
    }

    #[test]
    fn messages_that_are_none_are_passed_over() {
        let mut execution = Execution::default();
        for kind in ["status", "execute_input", "stream", "display_data", "error"] {
            execution.published(message(kind, json!({"text": 1})));
            execution.published(message(kind, json!("1")));
        }
        execution.published(message("stream", json!({"name": "stdout", "text": 1})));
        execution.answered(message("execute_reply", json!(null)));
        assert_eq!(types(&execution), ["error"], "an error without a word is one");
    }
}
