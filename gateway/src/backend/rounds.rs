//! Work of which one round serves everybody who waits when it begins: writing a whole file system
//! to its disk takes as long for one sandbox as for hundreds.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

#[derive(Default)]
pub(super) struct Rounds {
    /// How many have begun.
    begun: AtomicU64,
    /// The last that worked. Held by whoever does one.
    done: Mutex<u64>,
}

impl Rounds {
    /// Returns when a round that began after this was called has worked, which may be `round`.
    ///
    /// # Errors
    /// That of `round`: whoever waits for one that fails does his own.
    pub(super) async fn join<E>(
        &self,
        round: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut done = self.done.lock().await;
        if *done > before {
            return Ok(());
        }
        let this = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        round.await?;
        *done = this;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;

    const TAKES: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn those_who_come_while_one_is_under_way_share_the_next() {
        let (rounds, count) = (Rounds::default(), Cell::new(0));
        let began = Instant::now();
        let join = async |after: Duration| {
            sleep(after).await;
            let round = async {
                let began = Instant::now();
                count.set(count.get() + 1);
                sleep(TAKES).await;
                Ok::<_, ()>(began)
            };
            let of = Cell::new(None);
            let round = async {
                of.set(Some(round.await?));
                Ok::<_, ()>(())
            };
            rounds.join(round).await.unwrap();
            (began.elapsed(), of.get())
        };
        let first = join(Duration::ZERO);
        let late = join_all((1..100).map(|n| join(TAKES * n / 200)));
        let (first, late) = tokio::join!(first, late);
        assert_eq!((first.0, count.get()), (TAKES, 2));
        // What each waited for began after it came.
        assert!(late.iter().all(|(ended, _)| *ended == 2 * TAKES), "{late:?}");
        assert_eq!(late.iter().filter(|(_, own)| own.is_some()).count(), 1);
        join(Duration::ZERO).await;
        assert_eq!(count.get(), 3, "one that is over serves nobody who comes after it");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_or_is_given_up_serves_nobody() {
        let rounds = Rounds::default();
        let failing = async {
            sleep(TAKES).await;
            Err(())
        };
        let (failed, worked) = tokio::join!(rounds.join(failing), rounds.join(async { Ok(()) }));
        assert_eq!((failed, worked), (Err(()), Ok::<(), ()>(())));
        let given_up = tokio::time::timeout(
            TAKES / 2,
            rounds.join(async {
                sleep(TAKES).await;
                Ok::<_, ()>(())
            }),
        );
        let done = Cell::new(false);
        let own = rounds.join(async {
            done.set(true);
            Ok::<_, ()>(())
        });
        let (given_up, own) = tokio::join!(given_up, own);
        assert!(given_up.is_err() && own.is_ok() && done.get());
    }
}
