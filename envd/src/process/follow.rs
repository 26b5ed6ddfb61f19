//! What a client sees of a process: `start`, output, `end`, and a sign of life in between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use connectrpc::{ConnectError, RequestContext};
use futures_util::stream::{self, Stream};
use tokio::time::{sleep, sleep_until};

use super::{
    fanout::{Feed, Output},
    running::Process,
};
use crate::connect::{
    keepalive_interval,
    proto::process::{
        ProcessEvent,
        process_event::{DataEvent, Event, KeepAlive, StartEvent, data_event},
    },
    stream_timeout,
};

/// What a process that was killed takes until it is gone.
const LAST: Duration = Duration::from_secs(1);

/// One client's view of one process.
pub(super) struct Follow {
    process: Arc<Process>,
    feed: Feed,
    keepalive: Duration,
    deadline: Option<Instant>,
    /// Whether this is the stream of Start, whose deadline is the process's own.
    owner: bool,
    state: State,
}

enum State {
    New,
    Following,
    Done,
}

impl Follow {
    /// Follows from here on.
    pub(super) fn new(
        process: Arc<Process>,
        context: &RequestContext,
    ) -> Result<Self, ConnectError> {
        let feed = process
            .fanout
            .listen()
            .map_err(|error| ConnectError::resource_exhausted(error.to_string()))?;
        Ok(Self {
            process,
            feed,
            keepalive: keepalive_interval(context),
            deadline: stream_timeout(context)
                .and_then(|timeout| Instant::now().checked_add(timeout)),
            owner: false,
            state: State::New,
        })
    }

    /// For Start, with the deadline of the process: at which it is killed, and the stream ends with
    /// it.
    pub(super) fn owning(mut self, deadline: Option<Instant>) -> Self {
        self.owner = true;
        self.deadline = deadline.and_then(|deadline| deadline.checked_add(LAST));
        self
    }

    pub(super) fn events(self) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send {
        stream::unfold(self, |mut follow| async move {
            let event = follow.next().await?;
            if event.is_err() {
                follow.state = State::Done;
            }
            Some((event, follow))
        })
    }

    async fn next(&mut self) -> Option<Result<ProcessEvent, ConnectError>> {
        let event = match self.state {
            State::Done => return None,
            State::New => {
                self.state = State::Following;
                StartEvent { pid: self.process.pid, ..StartEvent::default() }.into()
            }
            State::Following => {
                let deadline = self.deadline;
                let expired = async move {
                    match deadline {
                        Some(deadline) => sleep_until(deadline.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = expired => return Some(Err(expired_error())),
                    output = self.feed.next() => match output {
                        Some(output) => data(output).into(),
                        None => match self.end() {
                            Ok(end) => end,
                            Err(error) => return Some(Err(error)),
                        },
                    },
                    () = sleep(self.keepalive) => KeepAlive::default().into(),
                }
            }
        };
        Some(Ok(ProcessEvent { event: Some(event), ..ProcessEvent::default() }))
    }

    /// Why the feed ended.
    fn end(&mut self) -> Result<Event, ConnectError> {
        self.state = State::Done;
        if self.feed.was_dropped() {
            return Err(ConnectError::resource_exhausted(
                "the client read too slowly and was dropped; the process goes on",
            ));
        }
        match self.process.end() {
            Some(_) if self.owner && self.process.timed_out() => Err(expired_error()),
            Some(end) => Ok(end.clone().into()),
            None => Err(ConnectError::internal("the process is gone without an end")),
        }
    }
}

fn expired_error() -> ConnectError {
    ConnectError::deadline_exceeded("context deadline exceeded")
}

fn data(output: Output) -> DataEvent {
    let output = match output {
        Output::Stdout(bytes) => data_event::Output::Stdout(bytes.into()),
        Output::Stderr(bytes) => data_event::Output::Stderr(bytes.into()),
        Output::Pty(bytes) => data_event::Output::Pty(bytes.into()),
    };
    DataEvent { output: Some(output), ..DataEvent::default() }
}
