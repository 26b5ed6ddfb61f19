//! Time that does not go on while the sandbox is paused.
//!
//! The system's clocks do: whoever waited by them for what a paused process was to do would find
//! its time over as soon as it can run again. So a wait is made of short ones, each of which counts
//! for what it was asked for, however long it took.

use std::time::Duration;

use tokio::time;

/// A pause costs a wait no more than this.
const TICK: Duration = Duration::from_secs(1);

pub(crate) async fn sleep(mut wait: Duration) {
    while !wait.is_zero() {
        let tick = wait.min(TICK);
        time::sleep(tick).await;
        wait -= tick;
    }
}

/// As tokio's.
pub(crate) async fn timeout<F: Future>(wait: Duration, work: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = sleep(wait) => Err(Elapsed),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up_and_nothing_else() {
        let work = |millis| time::sleep(Duration::from_millis(millis));
        assert_eq!(timeout(Duration::from_millis(2500), work(2400)).await, Ok(()));
        assert_eq!(timeout(Duration::from_millis(2500), work(2600)).await, Err(Elapsed));
        assert_eq!(timeout(Duration::ZERO, work(1)).await, Err(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_takes_a_second_at_the_most() {
        let began = time::Instant::now();
        let waiting = tokio::spawn(sleep(Duration::from_secs(10)));
        tokio::task::yield_now().await;
        time::advance(Duration::from_secs(3600)).await;
        waiting.await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(3600 + 9), "{:?}", began.elapsed());
    }
}
