//! Creates and kills at a rate that does not wait for them: does 200 a second hold, and what is
//! the highest rate that does?

use std::{sync::Arc, time::Duration};

use super::Stage;
use crate::{
    api::Api,
    client::Client,
    load::{self, Work},
    report::{At, Report},
    tally::Tally,
};

const RATE: f64 = 200.0;
/// From one rate that is tried to the next.
const STEP: f64 = 1.2;
const STEPS: usize = 12;
/// Of what arrives: else what is under way grows without an end.
const DONE_IN_TIME: f64 = 0.95;

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let amount = &stage.amount;
    let rate = amount.rate.unwrap_or(if amount.quick { 5.0 } else { RATE });
    let lasts = if amount.quick { 1.0 } else { amount.seconds.unwrap_or(15.0) };
    let lasts = Duration::from_secs_f64(lasts);
    report.note(format!(
        "each operation is a create and a kill, begun at random instants at the given rate for \
         {lasts:?} and measured from the instant it was meant to begin; a rate holds when \
         {DONE_IN_TIME} of it is done by the end"
    ));
    run(stage, rate, lasts.min(Duration::from_secs(2))).await?;

    let mut step = 0;
    let first = try_rate(stage, report, rate, lasts).await?;
    let (mut highest, mut next) = (first.then_some(rate), rate);
    while !amount.quick && step < STEPS {
        next = if first { next * STEP } else { next / STEP };
        let holds = try_rate(stage, report, next, lasts).await?;
        if holds {
            highest = Some(next);
        }
        if holds != first {
            break;
        }
        step += 1;
    }
    let highest = highest.unwrap_or(0.0);
    report.aim("highest rate of creates and kills that holds", At::Least, RATE, "/s", highest);
    Ok(())
}

async fn try_rate(
    stage: &Stage,
    report: &mut Report,
    rate: f64,
    lasts: Duration,
) -> anyhow::Result<bool> {
    eprintln!("    {rate:.0}/s");
    let tally = run(stage, rate, lasts).await?;
    let holds = tally.errors == 0 && holds(&tally, lasts);
    let how = format!("open, {rate:.0}/s{}", if holds { "" } else { ": does not hold" });
    report.series("create and kill", "coppice", &how, &tally);
    Ok(holds)
}

async fn run(stage: &Stage, rate: f64, lasts: Duration) -> anyhow::Result<Tally> {
    let api = Arc::clone(&stage.gateway.api);
    load::open(rate, lasts, move || CreateAndKill { api: Arc::clone(&api), client: api.client() })
        .await
}

/// Whether it kept up with what arrived.
fn holds(tally: &Tally, lasts: Duration) -> bool {
    let arrived = (tally.len() + tally.errors) as f64 / lasts.as_secs_f64();
    tally.rate() >= DONE_IN_TIME * arrived
}

struct CreateAndKill {
    api: Arc<Api>,
    client: Client,
}

impl Work for CreateAndKill {
    async fn once(&mut self) -> anyhow::Result<u64> {
        let sandbox = self.api.create(&mut self.client).await?;
        sandbox.kill(&mut self.client).await.map(|()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_when_little_is_left_to_do_at_its_end() {
        let of = |count: u64, seconds: f64| {
            let mut tally = Tally::default();
            (0..count).for_each(|_| tally.count_as(Duration::from_millis(1), Ok(0)));
            tally.lasted = Duration::from_secs_f64(seconds);
            tally
        };
        let lasts = Duration::from_secs(10);
        assert!(holds(&of(2000, 10.2), lasts));
        assert!(!holds(&of(2000, 11.0), lasts));
    }
}
