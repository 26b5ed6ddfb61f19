//! Clients that have closed their sending half while a response is on its way to them.
//!
//! Either the client only has nothing more to say and waits for its answer, or it is gone: the two
//! look the same until something is sent. So the end of what it sends is kept from HTTP for a
//! while, and for as long as it takes what it is sent; one that is gone answers that with a reset.
//! An end in the middle of a request's body is not kept: see [`super::received`].

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

pub(super) struct HalfClosed {
    /// How long a client is believed to be there that takes nothing.
    patience: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl HalfClosed {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, until: None }
    }

    /// Ready when the client counts as gone. Called when its sending half is found closed.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        until.as_mut().poll(cx)
    }

    /// The client, or the kernel on its behalf, has taken something.
    pub(super) fn took(&mut self) {
        if let Some(until) = &mut self.until {
            until.as_mut().reset(Instant::now() + self.patience);
        }
    }
}
