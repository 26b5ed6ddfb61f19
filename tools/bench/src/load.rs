//! Doing something over and over: in a closed loop, in an open one, and beside peers.
//!
//! Peers are interleaved: every round has a turn of each, and each round begins with another, so
//! that what else happens on the machine happens to all of them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::tally::Tally;

/// Of all that is random here: arrivals and the contents of files.
pub(crate) const SEED: u64 = 20_260_501;

/// Operations of an open loop that may be under way at once; more wait, and their time runs.
const MOST_OPEN: usize = 256;

/// One operation, of which every worker has its own.
pub(crate) trait Work: Send + 'static {
    /// The bytes it moved.
    fn once(&mut self) -> impl Future<Output = anyhow::Result<u64>> + Send;
}

/// Something that can take its turn in a round.
pub(crate) trait Turn: Send {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>>;
}

/// Workers that each begin again as soon as they are done.
pub(crate) struct Closed<W>(pub(crate) Vec<W>);

impl<W: Work> Turn for Closed<W> {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        Box::pin(async move {
            let workers = self.0.len();
            let mut running = JoinSet::new();
            for mut work in self.0.drain(..) {
                running.spawn(async move {
                    let (mut tally, began) = (Tally::default(), Instant::now());
                    for _ in 0..count.div_ceil(workers) {
                        let start = Instant::now();
                        let outcome = work.once().await;
                        tally.count(start, outcome);
                    }
                    tally.lasted = began.elapsed();
                    (work, tally)
                });
            }
            let mut all = Tally::default();
            while let Some(done) = running.join_next().await {
                let (work, tally) = done?;
                self.0.push(work);
                all.merge(tally);
            }
            Ok(all)
        })
    }
}

/// A program run to its end, again and again, by a thread that waits for nothing else.
pub(crate) struct Programs<F>(pub(crate) F);

impl<F> Turn for Programs<F>
where
    F: FnMut() -> anyhow::Result<()> + Clone + Send + 'static,
{
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        let mut run = self.0.clone();
        Box::pin(async move {
            let wanted = Arc::new(());
            let still = Arc::downgrade(&wanted);
            let all = tokio::task::spawn_blocking(move || {
                let (mut tally, began) = (Tally::default(), Instant::now());
                for _ in 0..count {
                    // Not so when the run was broken off, and this future with it.
                    if still.strong_count() == 0 {
                        break;
                    }
                    let start = Instant::now();
                    tally.count(start, run().map(|()| 0));
                }
                tally.lasted = began.elapsed();
                tally
            });
            let tally = all.await?;
            drop(wanted);
            Ok(tally)
        })
    }
}

/// One of those compared, and what was measured of it.
pub(crate) struct Lane {
    pub(crate) what: String,
    pub(crate) who: String,
    pub(crate) how: String,
    turn: Box<dyn Turn>,
    pub(crate) total: Tally,
    /// Of each round.
    pub(crate) medians: Vec<f64>,
    pub(crate) rates: Vec<f64>,
}

impl Lane {
    pub(crate) fn new(what: &str, who: &str, how: &str, turn: impl Turn + 'static) -> Self {
        Self {
            what: what.to_owned(),
            who: who.to_owned(),
            how: how.to_owned(),
            turn: Box::new(turn),
            total: Tally::default(),
            medians: Vec::new(),
            rates: Vec::new(),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) rounds: usize,
    /// Operations of each, each round.
    pub(crate) count: usize,
    /// Before the first round; not measured, but their errors count.
    pub(crate) warmup: usize,
}

pub(crate) async fn interleave(lanes: &mut [Lane], rounds: Rounds) -> anyhow::Result<()> {
    for lane in lanes.iter_mut() {
        eprintln!("    warm-up: {}, {}", lane.what, lane.who);
        let warm = lane.turn.turn(rounds.warmup).await?;
        lane.total.errors += warm.errors;
        lane.total.first_error = warm.first_error;
    }
    for round in 0..rounds.rounds {
        eprintln!("    round {} of {}", round + 1, rounds.rounds);
        for n in 0..lanes.len() {
            let lane = &mut lanes[(round + n) % lanes.len()];
            let tally = lane.turn.turn(rounds.count).await?;
            lane.medians.push(tally.quantile(0.5));
            lane.rates.push(tally.rate());
            lane.total.append(tally);
        }
    }
    Ok(())
}

/// Operations that begin at random instants, `rate` a second on the average, however long they
/// take. Each is measured from the instant it was meant to begin at: one that had to wait for
/// others, or for this program, has waited.
pub(crate) async fn open<W: Work>(
    rate: f64,
    lasts: Duration,
    make: impl Fn() -> W + Send + Sync + 'static,
) -> anyhow::Result<Tally> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let workers =
        Arc::new(Workers { free: Semaphore::new(MOST_OPEN), idle: Mutex::default(), make });
    let runtime = Handle::current();
    let began = Instant::now();
    // A thread of its own, as timers of the runtime are only good to a millisecond.
    let pace = tokio::task::spawn_blocking(move || {
        for after in arrivals(rate, lasts) {
            let meant = began + after;
            thread::sleep(meant.saturating_duration_since(Instant::now()));
            if tell.is_closed() {
                return;
            }
            let (workers, tell) = (Arc::clone(&workers), tell.clone());
            runtime.spawn(async move {
                let outcome = workers.once().await;
                // Nobody is there to hear when the run was broken off.
                let _ = tell.send((meant.elapsed(), outcome));
            });
        }
    });
    let mut tally = Tally::default();
    while let Some((took, outcome)) = told.recv().await {
        tally.count_as(took, outcome);
    }
    tally.lasted = began.elapsed();
    pace.await?;
    Ok(tally)
}

/// As many as are needed at once, with their connections.
struct Workers<W, F> {
    free: Semaphore,
    idle: Mutex<Vec<W>>,
    make: F,
}

impl<W: Work, F: Fn() -> W> Workers<W, F> {
    async fn once(&self) -> anyhow::Result<u64> {
        let _turn = self.free.acquire().await?;
        let idle = self.idle.lock().expect("no holder panics").pop();
        let mut work = idle.unwrap_or_else(&self.make);
        let outcome = work.once().await;
        self.idle.lock().expect("no holder panics").push(work);
        outcome
    }
}

/// When operations begin: exponential gaps, the same in every run.
fn arrivals(rate: f64, lasts: Duration) -> VecDeque<Duration> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut at = 0.0;
    let mut arrivals = VecDeque::new();
    loop {
        at += -(1.0 - random.random::<f64>()).ln() / rate;
        if at >= lasts.as_secs_f64() {
            return arrivals;
        }
        arrivals.push_back(Duration::from_secs_f64(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleep(Duration);

    impl Work for Sleep {
        async fn once(&mut self) -> anyhow::Result<u64> {
            tokio::time::sleep(self.0).await;
            Ok(1)
        }
    }

    /// Blocks the only thread there is, once, so that those after it begin late.
    struct Stall(Arc<std::sync::atomic::AtomicBool>, Duration);

    impl Work for Stall {
        async fn once(&mut self) -> anyhow::Result<u64> {
            if !self.0.swap(true, std::sync::atomic::Ordering::SeqCst) {
                thread::sleep(self.1);
            }
            Ok(0)
        }
    }

    #[tokio::test]
    async fn an_open_loop_measures_from_the_instant_an_operation_was_meant_to_begin() {
        let stall = Duration::from_millis(500);
        let stalled = Arc::default();
        let make = move || Stall(Arc::clone(&stalled), stall);
        let tally = open(200.0, 2 * stall, make).await.unwrap();
        // Those that began during the stall did nothing themselves, and took up to all of it.
        assert!(tally.quantile(0.75) > 100.0, "{}", tally.quantile(0.75));
        assert_eq!(tally.errors, 0);
    }

    #[test]
    fn arrivals_are_as_many_as_the_rate_says_and_the_same_in_every_run() {
        let second = Duration::from_secs(1);
        let thousand = arrivals(1000.0, second);
        assert!((850..1150).contains(&thousand.len()), "{}", thousand.len());
        assert!(thousand.iter().is_sorted() && *thousand.back().unwrap() < second);
        assert_eq!(thousand, arrivals(1000.0, second));
    }

    #[tokio::test]
    async fn rounds_are_interleaved_and_warm_up_is_not_measured() {
        let lane = |who| {
            Lane::new(
                "sleep",
                who,
                "",
                Closed(vec![Sleep(Duration::from_millis(2)), Sleep(Duration::ZERO)]),
            )
        };
        let mut lanes = [lane("a"), lane("b")];
        interleave(&mut lanes, Rounds { rounds: 3, count: 4, warmup: 50 }).await.unwrap();
        for lane in &lanes {
            assert_eq!((lane.total.len(), lane.total.bytes), (12, 12));
            assert_eq!((lane.medians.len(), lane.rates.len()), (3, 3));
        }
    }

    #[tokio::test]
    async fn programs_that_fail_are_errors() {
        let mut n = 0;
        let mut programs = Programs(move || {
            n += 1;
            anyhow::ensure!(n != 2, "failed");
            Ok(())
        });
        let tally = programs.turn(3).await.unwrap();
        assert_eq!((tally.len(), tally.errors), (2, 1));
    }
}
