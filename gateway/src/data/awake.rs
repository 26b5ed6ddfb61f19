//! Waiting awake: a core that has gone to sleep takes as long to wake as a small answer takes to
//! come.
//!
//! So while only one request of all waits for its answer, and those before it on its connection
//! have followed each other and been answered at once, two things are done
//! (docs/profiles/data-plane.md). The worker asks the kernel over and over what is new, for
//! everybody it serves, and sleeps only when nothing comes. And on a host of few cores the kernel is
//! asked to let none of them sleep, so that who answers, and who asked, are there at once too. With
//! more requests under way there is work enough to keep cores awake, and they are better left to
//! who answers.

use std::{
    fs::File,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use futures_util::poll;
use tokio::{task::yield_now, time::sleep};

use crate::backend::keep_cores_awake;

/// What comes within this is worth being awake for.
const AT_ONCE: Duration = Duration::from_micros(200);

/// Nothing is waited for awake for longer.
const LOOKING: Duration = Duration::from_micros(100);

/// A request that comes so long after the answer before it begins a series of its own. To a client
/// that takes its time, or is far away, it makes little difference who sleeps.
const APART: Duration = Duration::from_millis(1);

/// So many answers in a row have to come at once before the next is waited for awake: on a machine
/// whose cores all have other work it takes the time of those who answer.
const TRUST: u8 = 32;

/// What it costs to keep all cores awake grows with them, what it gains does not.
const FEW_CORES: usize = 8;

/// For so long cores are kept awake after the last request that wants it, at most for twice that.
const AFTERWARDS: Duration = Duration::from_millis(5);

/// Who waits, of all sandboxes'.
pub(super) struct Awake {
    waiting: AtomicUsize,
    /// On a single core whoever is waited for needs it.
    possible: bool,
    /// On a host of few.
    cores: Option<Arc<Cores>>,
}

/// The host's, and whether they may sleep.
struct Cores {
    /// Asks the kernel that they do not, until what it returns is dropped.
    keep: fn() -> io::Result<File>,
    /// Since it was last looked at.
    wanted: AtomicBool,
    /// They are kept awake, or cannot be.
    kept: AtomicBool,
}

/// How the requests on a connection follow each other.
#[derive(Default)]
pub(super) struct Pace {
    /// How many answers have come at once, one after the other.
    quick: u8,
    /// When the last did.
    last: Option<Instant>,
}

impl Default for Awake {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        let few = (2..=FEW_CORES).contains(&cores);
        Self {
            waiting: AtomicUsize::new(0),
            possible: cores > 1,
            cores: few.then(|| Arc::new(Cores::new(keep_cores_awake))),
        }
    }
}

impl Awake {
    /// Waits for an answer.
    pub(super) async fn wait<A>(&self, pace: &mut Pace, answer: impl Future<Output = A>) -> A {
        let _waiting = Waiting::new(&self.waiting);
        let mut answer = pin!(answer);
        let began = Instant::now();
        let follows = pace.last.is_some_and(|last| began.duration_since(last) < APART);
        let trusted = follows && pace.quick >= TRUST;
        if let Some(cores) = self.cores.as_ref().filter(|_| trusted && self.is_worth_it()) {
            cores.keep_awake();
        }
        let answer = loop {
            if !trusted || !self.is_worth_it() || began.elapsed() >= LOOKING {
                break answer.await;
            }
            if let Poll::Ready(answer) = poll!(answer.as_mut()) {
                break answer;
            }
            yield_now().await;
        };
        let now = Instant::now();
        let quick = match now.duration_since(began) {
            took if took >= AT_ONCE => 0,
            _ if follows => pace.quick.saturating_add(1),
            _ => 1,
        };
        *pace = Pace { quick, last: Some(now) };
        answer
    }

    fn is_worth_it(&self) -> bool {
        self.possible && self.waiting.load(Ordering::Relaxed) == 1
    }
}

impl Cores {
    fn new(keep: fn() -> io::Result<File>) -> Self {
        Self { keep, wanted: AtomicBool::new(false), kept: AtomicBool::new(false) }
    }

    fn keep_awake(self: &Arc<Self>) {
        self.wanted.store(true, Ordering::Relaxed);
        if self.kept.swap(true, Ordering::AcqRel) {
            return;
        }
        let request = match (self.keep)() {
            Ok(request) => request,
            // So it will be the next time, and nobody needs to be told again.
            Err(error) => return tracing::debug!(%error, "cores go to sleep as they like"),
        };
        let cores = self.clone();
        tokio::spawn(async move {
            while cores.wanted.swap(false, Ordering::Relaxed) {
                sleep(AFTERWARDS).await;
            }
            drop(request);
            cores.kept.store(false, Ordering::Release);
        });
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::{pending, poll_fn},
    };

    use futures_util::{FutureExt as _, future::join};
    use tokio::time::timeout;

    use super::*;

    /// Nothing is asked of the kernel.
    fn awake() -> Awake {
        Awake { waiting: AtomicUsize::new(0), possible: true, cores: None }
    }

    fn trusted() -> Pace {
        Pace { quick: TRUST, last: Some(Instant::now()) }
    }

    /// Ready when it has been looked at so often, and wakes nobody.
    fn looked_at(times: u32) -> impl Future<Output = ()> {
        let left = Cell::new(times);
        poll_fn(move |_| {
            left.set(left.get() - 1);
            if left.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    fn some_file() -> io::Result<File> {
        File::open("/dev/null")
    }

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    fn refuse() -> io::Result<File> {
        ASKED.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Whether it is looked for, which a machine that is busy may have no time for.
    async fn is_looked_for(awake: &Awake) -> bool {
        for _ in 0..1000 {
            let mut pace = trusted();
            if timeout(AT_ONCE, awake.wait(&mut pace, looked_at(3))).await.is_ok() {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn one_whose_last_answers_came_at_once_is_waited_for_awake() {
        assert!(is_looked_for(&awake()).await);
    }

    #[tokio::test]
    async fn what_takes_longer_is_slept_for_and_so_are_many_after_it() {
        let (mut pace, awake) = (trusted(), awake());
        awake.wait(&mut pace, sleep(10 * AT_ONCE)).await;
        assert_eq!(pace.quick, 0);
        for quick in 0..TRUST {
            pace = Pace { quick, ..trusted() };
            // Nobody has it woken, as yielding would.
            assert!(awake.wait(&mut pace, looked_at(2)).now_or_never().is_none());
        }
        assert_eq!(awake.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn one_that_comes_a_while_after_the_last_is_slept_for() {
        let last = Instant::now().checked_sub(APART).unwrap();
        let mut pace = Pace { last: Some(last), ..trusted() };
        assert!(awake().wait(&mut pace, looked_at(2)).now_or_never().is_none());
    }

    #[tokio::test]
    async fn several_at_once_are_slept_for() {
        let (mut one, mut other, awake) = (trusted(), trusted(), awake());
        let mut waiting = pin!(join(
            awake.wait(&mut one, pending::<()>()),
            awake.wait(&mut other, pending::<()>()),
        ));
        assert!(poll!(waiting.as_mut()).is_pending());
        assert!(!awake.is_worth_it());
    }

    #[tokio::test(start_paused = true)]
    async fn cores_sleep_again_soon_after_the_last_of_a_series() {
        let cores = Arc::new(Cores::new(some_file));
        let awake = Awake { cores: Some(cores.clone()), ..awake() };
        let kept = || cores.kept.load(Ordering::Acquire);
        awake.wait(&mut Pace::default(), looked_at(1)).await;
        assert!(!kept());
        // The clock that says whether one follows another is not the one that stands still here.
        let following = || Pace { last: Instant::now().checked_add(APART), ..trusted() };
        for _ in 0..10 {
            awake.wait(&mut following(), looked_at(1)).await;
            sleep(AFTERWARDS / 2).await;
            assert!(kept());
        }
        sleep(2 * AFTERWARDS).await;
        assert!(!kept());
        awake.wait(&mut following(), looked_at(1)).await;
        assert!(kept());
    }

    #[tokio::test]
    async fn a_kernel_that_refuses_is_asked_once_and_answers_are_looked_for() {
        let cores = Arc::new(Cores::new(refuse));
        let awake = Awake { cores: Some(cores), ..awake() };
        for _ in 0..3 {
            assert!(is_looked_for(&awake).await);
            assert_eq!(ASKED.load(Ordering::Relaxed), 1);
        }
    }
}
