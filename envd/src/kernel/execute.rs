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

/// Of each thing that an answer says about a failure (bytes). What a kernel publishes of it goes
/// first, and is not cut.
const MAX_TOLD: usize = 64 << 10;

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
    /// What the reply says, until everything has come that was published before it.
    reply: Answer,
}

#[derive(Default)]
struct Answer {
    count: Option<i64>,
    failure: Option<Error>,
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

#[derive(Default, Deserialize)]
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
                match &*kind {
                    "error" => {
                        let Error { ename, evalue, .. } = Error::left_out(length);
                        self.fail(&ename, &evalue, "");
                    }
                    "display_data" => self.leave_out(&format!("a display of {} MiB", length >> 20)),
                    "execute_result" => {
                        self.leave_out(&format!("a result of {} MiB", length >> 20));
                    }
                    _ => {}
                }
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

    /// What the kernel answers. It comes by another way than what is published, and may be first.
    pub(super) fn answered(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Message { kind, content, .. } if kind == "execute_reply" => {
                self.replied = true;
                let Ok(reply) = serde_json::from_slice::<Reply<'_>>(&content) else { return };
                self.reply.count = reply.execution_count;
                self.reply.failure = match &*reply.status {
                    "error" => serde_json::from_slice(&content).ok().map(Error::cut),
                    "aborted" | "abort" => {
                        Some(Error::new("ExecutionAborted", "Execution was aborted"))
                    }
                    _ => None,
                };
            }
            Incoming::TooLong { kind, length } if kind == "execute_reply" => {
                self.replied = true;
                self.reply.failure = Some(Error::left_out(length));
            }
            _ => {}
        }
    }

    /// Nothing more will be published: tells what the answer said and nothing else has told, as
    /// not every kernel publishes what it takes in, or how it failed.
    pub(super) fn conclude(&mut self) {
        let Answer { count, failure } = mem::take(&mut self.reply);
        if let Some(count) = count {
            self.count(count);
        }
        if let Some(Error { ename, evalue, traceback }) = failure {
            self.fail(&ename, &evalue, &traceback.join("\n"));
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

impl Error {
    fn new(name: &str, value: &str) -> Self {
        Self { ename: name.to_owned(), evalue: value.to_owned(), traceback: Vec::new() }
    }

    fn left_out(length: u64) -> Self {
        Self::new("Error", &format!("an error of {} MiB was left out", length >> 20))
    }

    fn cut(self) -> Self {
        let cut = |mut text: String| {
            text.truncate(text.floor_char_boundary(MAX_TOLD));
            text.shrink_to_fit();
            text
        };
        let traceback = cut(self.traceback.join("\n"));
        Self { ename: cut(self.ename), evalue: cut(self.evalue), traceback: vec![traceback] }
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
        assert!(lines(&execution).is_empty() && execution.is_replied());
        execution.conclude();
        assert_eq!(types(&execution), ["number_of_executions", "error"]);
        assert_eq!(lines(&execution)[1]["name"], "ExecutionAborted");
    }

    #[test]
    fn a_reply_that_comes_first_is_told_last() {
        let mut execution = Execution::default();
        let error = json!({"ename": "E", "evalue": "v", "traceback": ["t"], "status": "error",
            "execution_count": 3});
        execution.answered(message("execute_reply", error.clone()));
        execution.published(message("execute_input", json!({"code": "", "execution_count": 3})));
        execution.published(message("stream", json!({"name": "stdout", "text": "a"})));
        execution.published(message("error", error));
        execution.conclude();
        assert_eq!(types(&execution), ["number_of_executions", "stdout", "error"]);
    }

    #[test]
    fn an_error_that_is_too_long_is_an_error_nevertheless() {
        let too_long = |kind: &str| Incoming::TooLong { kind: kind.to_owned(), length: 40 << 20 };
        let value = "an error of 40 MiB was left out";
        let expect = json!({"type": "error", "name": "Error", "value": value, "traceback": ""});
        let mut execution = Execution::default();
        execution.answered(too_long("execute_reply"));
        assert!(execution.is_replied() && !execution.has_failed());
        execution.published(too_long("error"));
        execution.conclude();
        assert_eq!(lines(&execution), std::slice::from_ref(&expect));
        let mut execution = Execution::default();
        execution.answered(too_long("execute_reply"));
        execution.conclude();
        assert_eq!(lines(&execution), [expect]);
    }

    #[test]
    fn little_is_kept_of_what_an_answer_says() {
        let mut execution = Execution::default();
        let long = "é".repeat(MAX_TOLD);
        let error = json!({"ename": long, "evalue": long, "traceback": [long], "status": "error"});
        execution.answered(message("execute_reply", error));
        execution.conclude();
        let [line] = &lines(&execution)[..] else { panic!("one line") };
        for key in ["name", "value", "traceback"] {
            assert_eq!(line[key].as_str().map(str::len), Some(MAX_TOLD), "{key}");
        }
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
