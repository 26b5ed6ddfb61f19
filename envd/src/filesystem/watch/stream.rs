//! A watch as the server stream of WatchDir: `start`, events, and a `keepalive` in long silences.

use std::{collections::VecDeque, time::Duration};

use connectrpc::{ConnectError, RequestContext};
use futures_util::{Stream, stream::unfold};
use tokio::time::Instant;

use super::Watch;
use crate::connect::{
    keepalive_interval,
    proto::filesystem::{
        FilesystemEvent, WatchDirResponse,
        watch_dir_response::{KeepAlive, StartEvent},
    },
    stream_timeout,
};

struct Streaming {
    watch: Watch,
    ping: Duration,
    deadline: Option<Instant>,
    pending: VecDeque<FilesystemEvent>,
    stage: Stage,
}

enum Stage {
    Starting,
    Following,
    /// The error is still to be sent.
    Failed(ConnectError),
    Over,
}

/// Ends with the client, its timeout, or the watch.
pub(in super::super) fn stream(
    watch: Watch,
    ctx: &RequestContext,
) -> impl Stream<Item = Result<WatchDirResponse, ConnectError>> + Send + 'static {
    let streaming = Streaming {
        watch,
        ping: keepalive_interval(ctx),
        deadline: stream_timeout(ctx).and_then(|timeout| Instant::now().checked_add(timeout)),
        pending: VecDeque::new(),
        stage: Stage::Starting,
    };
    unfold(streaming, |mut streaming| async move {
        let item = streaming.next().await?;
        Some((item, streaming))
    })
}

impl Streaming {
    async fn next(&mut self) -> Option<Result<WatchDirResponse, ConnectError>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(response(event)));
            }
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Starting => {
                    self.stage = Stage::Following;
                    return Some(Ok(response(StartEvent::default())));
                }
                Stage::Following => {}
                Stage::Failed(error) => return Some(Err(error)),
                Stage::Over => return None,
            }
            self.stage = Stage::Following;
            // An interval beyond the clock's range is as good as none.
            let ping = Instant::now().checked_add(self.ping);
            let until = match (ping, self.deadline) {
                (Some(ping), Some(deadline)) => Some(ping.min(deadline)),
                (ping, deadline) => ping.or(deadline),
            };
            match self.watch.next(until).await {
                Some(batch) => {
                    self.pending.extend(batch.events);
                    if let Some(end) = batch.end {
                        self.stage = Stage::Failed(end.into());
                    }
                }
                None if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    let text = "the watch has reached its timeout";
                    self.stage = Stage::Failed(ConnectError::deadline_exceeded(text));
                }
                None => return Some(Ok(response(KeepAlive::default()))),
            }
        }
    }
}

fn response(
    event: impl Into<
        Option<crate::connect::proto::filesystem::__buffa::oneof::watch_dir_response::Event>,
    >,
) -> WatchDirResponse {
    WatchDirResponse { event: event.into(), ..Default::default() }
}
