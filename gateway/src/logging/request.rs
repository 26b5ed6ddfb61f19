//! Which request a line of the log is about: its id, and the trace that it is part of.
//!
//! Both are found at the front door and go with the work that the request causes, also where that
//! goes on in a task of its own ([`carried`], [`carried_blocking`]); whoever writes a line looks for
//! them then. So a request that nothing is said of costs two headers looked up and some bytes
//! copied: no memory, no lock, and no span of `tracing`'s, which costs all three at any level.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::events::{TraceId, trace};

/// By which a client names its request, and is told how it is named here.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that a client may give (bytes).
const LONGEST: usize = 64;

tokio::task_local! {
    static CURRENT: Ids;
}

/// What a request is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    request: RequestId,
    trace: Option<TraceId>,
}

impl Ids {
    /// As its headers have it; one without a name gets one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let name = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        let request = name.and_then(RequestId::parse).unwrap_or_else(RequestId::new);
        Self { request, trace: trace::of(headers) }
    }

    pub(crate) fn trace(&self) -> Option<TraceId> {
        self.trace
    }

    /// Does `work` on behalf of the request.
    pub(crate) fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// For the client.
    pub(crate) fn header(self) -> Option<HeaderValue> {
        HeaderValue::from_str(self.request.as_str()).ok()
    }
}

/// Of the request that is worked for here, if there is one.
pub(crate) fn current() -> Option<Ids> {
    CURRENT.try_with(|ids| *ids).ok()
}

/// Says, where anybody wants to hear of it, what became of a request. Paths are not told: there are
/// some with a signature or what a user calls his files.
pub(crate) fn answered(route: &str, method: &Method, status: u16, took: Duration) {
    tracing::debug!(route, %method, status, took_us = took.as_micros() as u64, "answered");
}

/// `work`, for the request that is worked for here, wherever it is done then.
pub(crate) fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let ids = current();
    async move {
        match ids {
            Some(ids) => ids.scope(work).await,
            None => work.await,
        }
    }
}

/// [`carried`], of what blocks.
pub(crate) fn carried_blocking<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let ids = current();
    move || match ids {
        Some(ids) => CURRENT.sync_scope(ids, work),
        None => work(),
    }
}

/// As pairs behind a line of text.
impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request_id={}", self.request.as_str())?;
        self.trace.map_or(Ok(()), |trace| write!(f, " trace_id={trace}"))
    }
}

impl Ids {
    /// As members of an object of JSON: neither has a character that would have to be escaped.
    pub(super) fn members(&self) -> String {
        let request = self.request.as_str();
        let trace = self.trace.map(|trace| format!(",\"trace_id\":\"{trace}\""));
        format!("\"request_id\":\"{request}\"{}", trace.unwrap_or_default())
    }
}

/// Visible ASCII without quotes, backslashes and blanks: no client can write lines of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RequestId {
    text: [u8; LONGEST],
    length: u8,
}

impl RequestId {
    fn parse(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(&b);
        let known = (1..=LONGEST).contains(&text.len()) && text.bytes().all(allowed);
        known.then(|| Self::holding(text.as_bytes()))
    }

    /// Unlike any other of this gateway's, and with all likelihood of any gateway's.
    fn new() -> Self {
        static FIRST: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("first"));
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = scattered(FIRST.wrapping_add(MADE.fetch_add(1, Ordering::Relaxed)));
        let mut digits = [0; 16];
        for (at, digit) in digits.iter_mut().enumerate() {
            let nibble = number >> (60 - 4 * at) & 0xf;
            *digit = b"0123456789abcdef"[nibble as usize];
        }
        Self::holding(&digits)
    }

    /// No more than [`LONGEST`] bytes, of ASCII.
    fn holding(bytes: &[u8]) -> Self {
        let mut text = [0; LONGEST];
        text[..bytes.len()].copy_from_slice(bytes);
        Self { text, length: bytes.len() as u8 }
    }

    fn as_str(&self) -> &str {
        let text = std::str::from_utf8(&self.text[..usize::from(self.length)]);
        text.expect("only ASCII is ever put there")
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No two numbers become the same one, and neighbours become strangers: splitmix64's finish.
fn scattered(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ids(pairs: &[(&'static str, &str)]) -> Ids {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        Ids::of(&pairs.iter().map(pair).collect())
    }

    #[test]
    fn a_request_has_the_name_that_its_client_gave_or_one_of_its_own() {
        for name in ["a", "3f2b-41", "Root=1-67891233-abcdef012345678912345678", &"x".repeat(64)] {
            assert_eq!(ids(&[("x-request-id", name)]).request.as_str(), name);
        }
        for name in ["", "a b", "a\"b", "a\\n", "ä", "a,b", "{}", &"x".repeat(65)] {
            let made = ids(&[("x-request-id", name)]).request;
            assert_ne!(made.as_str(), name);
            assert_eq!(made.as_str().len(), 16, "{name}");
        }
        let many: HashSet<_> = (0..10_000).map(|_| RequestId::new().as_str().to_owned()).collect();
        assert_eq!(many.len(), 10_000);
    }

    #[tokio::test]
    async fn work_goes_on_for_its_request_in_tasks_and_threads() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let ours = ids(&[("x-request-id", "ours"), ("traceparent", parent)]);
        assert_eq!(ours.trace.unwrap().to_string(), parent[3..35]);
        assert_eq!(current(), None);
        ours.scope(async {
            assert_eq!(current(), Some(ours));
            let task = tokio::spawn(carried(async { current() }));
            let thread = tokio::task::spawn_blocking(carried_blocking(current));
            let stranger = tokio::spawn(async { current() });
            assert_eq!(task.await.unwrap(), Some(ours));
            assert_eq!(thread.await.unwrap(), Some(ours));
            assert_eq!(stranger.await.unwrap(), None);
        })
        .await;
        assert_eq!(tokio::spawn(carried(async { current() })).await.unwrap(), None);
    }
}
