//! `run_code` in a warm context, beside jupyter_client talking to the very same kind of kernel in
//! another sandbox of the template; much output, by both; and a create up to its first result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Stage, pool};
use crate::{
    api::{Api, Sandbox},
    client::{Client, Keep, Payload, Refused},
    load::{Closed, Lane, Turn, Work, interleave},
    report::{At, Of, Report},
    tally::Tally,
};

const TEMPLATE: &str = "code-interpreter-v1";
pub(super) const FLAGS: [&str; 2] = ["--pool", "code-interpreter-v1=2"];
const AVAILABLE: &str = "coppice_pool_available{template=\"code-interpreter-v1\"}";

/// In which the template is built, where it has to be.
const BUILDS: Duration = Duration::from_secs(900);

const DIRECT: &str = include_str!("direct.py");
const DIRECT_PATH: &str = "/home/user/direct.py";
const RESULT_PATH: &str = "/home/user/direct.json";

const SUM: &str = "1+1";
const ALONE: &str = "one at a time";

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let mut client = api.client();
    let ours = once_built(api, &mut client).await?;
    let theirs = if stage.amount.no_peers {
        None
    } else {
        let sandbox = api.create_as(&mut client, of_template(true)).await?;
        let script = sandbox.upload(DIRECT_PATH, Payload::of(DIRECT))?;
        client.send(script, Keep::Length).await?.successful().context("upload of the peer")?;
        report.note(
            "peer: jupyter_client, with a kernel of its own over the same kind of sockets, in a \
             sandbox of the same template; timed by itself, from the request to the kernel's idle",
        );
        Some(sandbox)
    };
    let megabyte = 1 << 20;
    let (large, many) = if stage.amount.quick { (1, 2) } else { (50, 3) };
    let cases = [
        ("run 1+1", SUM.to_owned(), None, 5, 200),
        ("1 MB of stdout", printing(1), Some(megabyte), 5, 20),
        ("50 MB of stdout", printing(large), Some(large * megabyte), many, 1),
    ];
    for (what, code, printed, rounds, count) in cases {
        let work =
            Runs { sandbox: ours.clone(), client: ours.client(), code: code.clone(), printed };
        let mut lanes = vec![Lane::new(what, "coppice", ALONE, Closed(vec![work]))];
        if let Some(sandbox) = &theirs {
            let direct =
                Direct { sandbox: sandbox.clone(), client: sandbox.client(), code, printed };
            lanes.push(Lane::new(what, "jupyter_client", ALONE, direct));
        }
        interleave(&mut lanes, stage.rounds(rounds, count)).await?;
        let of = if printed.is_some() { Of::Throughput } else { Of::P50 };
        report.lanes(&lanes, of);
        if printed.is_none() {
            let aim = "run 1+1, p50, by jupyter_client";
            report.aim_ratio(aim, At::Most, 1.2, &lanes[0], "jupyter_client");
        }
    }
    for sandbox in theirs.iter().chain([&ours]) {
        sandbox.kill(&mut client).await?;
    }

    let first = |what: &str, pooled| {
        Lane::new(
            what,
            "coppice",
            ALONE,
            Firsts { api: Arc::clone(api), client: api.client(), pooled },
        )
    };
    let mut lanes =
        [first("create from the pool and run 1+1", true), first("cold create and run 1+1", false)];
    report.note(
        "a cold create is one without a network, which no entry of the pool can become; its kernel \
         is started for its first run",
    );
    interleave(&mut lanes, stage.rounds(3, 10)).await?;
    report.lanes(&lanes, Of::P50);
    Ok(())
}

/// The first one. Where the template is missing, the gateway builds it meanwhile.
async fn once_built(api: &Arc<Api>, client: &mut Client) -> anyhow::Result<Sandbox> {
    let start = Instant::now();
    loop {
        match api.create_as(client, of_template(true)).await {
            Err(error) if start.elapsed() < BUILDS && is_for_later(&error) => {
                eprintln!("    waiting for the template {TEMPLATE}");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            made => return made,
        }
    }
}

fn is_for_later(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|refused| refused.status == StatusCode::SERVICE_UNAVAILABLE)
}

/// Lines of a kibibyte, 64 at a time.
fn printing(megabytes: u64) -> String {
    format!(
        "text = ('x' * 1023 + '\\n') * 64\nfor _ in range({} * 16): print(text, end='')",
        megabytes
    )
}

fn of_template(pooled: bool) -> Value {
    let mut wanted = json!({ "templateID": TEMPLATE });
    if !pooled {
        wanted["allow_internet_access"] = false.into();
    }
    wanted
}

struct Runs {
    sandbox: Sandbox,
    client: Client,
    code: String,
    /// Bytes of output; without them, the result is looked at.
    printed: Option<u64>,
}

impl Work for Runs {
    async fn once(&mut self) -> anyhow::Result<u64> {
        let keep = if self.printed.is_some() { Keep::Length } else { Keep::All };
        let answer =
            self.client.send(self.sandbox.execute(&self.code)?, keep).await?.successful()?;
        match self.printed {
            Some(printed) => {
                ensure!(answer.length >= printed, "{} bytes of {printed}", answer.length);
                Ok(printed)
            }
            None => check_sum(&answer.body).map(|()| 0),
        }
    }
}

/// An answer to 1+1, to its end.
fn check_sum(answer: &Bytes) -> anyhow::Result<()> {
    let text = std::str::from_utf8(answer)?;
    let items = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let result = items.iter().find(|item| item["type"] == "result");
    ensure!(result.is_some_and(|result| result["text"] == "2"), "1+1 gave {text}");
    let last = items.last().context("an empty answer")?;
    ensure!(last["type"] == "end_of_execution", "an answer without its end: {text}");
    Ok(())
}

/// The peer, which is started for each turn and times itself.
struct Direct {
    sandbox: Sandbox,
    client: Client,
    code: String,
    printed: Option<u64>,
}

impl Turn for Direct {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        Box::pin(async move {
            let warm_up = count.min(20).to_string();
            let count = count.to_string();
            let args = [DIRECT_PATH, &self.code, &warm_up, &count, RESULT_PATH];
            self.sandbox.run(&mut self.client, "python3", &args).await?;
            let result = self.sandbox.download(RESULT_PATH)?;
            let result = self.client.send(result, Keep::All).await?.successful()?;
            let runs: Vec<(u64, u64)> =
                serde_json::from_slice(&result.body).context("what the peer measured")?;
            let mut tally = Tally::default();
            for (micros, characters) in runs {
                let took = Duration::from_micros(micros);
                let wanted = self.printed.unwrap_or(1);
                ensure!(characters == wanted, "the peer got {characters} of {wanted}");
                tally.count_as(took, Ok(self.printed.unwrap_or(0)));
                tally.lasted += took;
            }
            Ok(tally)
        })
    }
}

/// From the request for a sandbox to the end of what it runs first.
struct Firsts {
    api: Arc<Api>,
    client: Client,
    pooled: bool,
}

impl Turn for Firsts {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        Box::pin(async move {
            let mut tally = Tally::default();
            for _ in 0..count {
                // For the cold ones too, as its filling takes a CPU.
                pool::until_available(&self.api, &mut self.client, AVAILABLE, 1.0).await?;
                let began = Instant::now();
                let sandbox =
                    self.api.create_as(&mut self.client, of_template(self.pooled)).await?;
                let answer = self.client.send(sandbox.execute(SUM)?, Keep::All).await?.successful();
                let took = began.elapsed();
                tally.count_as(took, answer.and_then(|answer| check_sum(&answer.body)).map(|()| 0));
                tally.lasted += took;
                sandbox.kill(&mut self.client).await?;
            }
            Ok(tally)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Answer;

    #[test]
    fn only_a_whole_answer_with_the_right_sum_counts() {
        let end = r#"{"type":"end_of_execution"}"#;
        let right = r#"{"type":"result","text":"2","is_main_result":true,"extra":{}}"#;
        let wrong = r#"{"type":"result","text":"3","is_main_result":true,"extra":{}}"#;
        let answer = |lines: &[&str]| check_sum(&lines.join("\n").into());
        assert!(answer(&[right, end]).is_ok());
        for bad in [&[wrong, end][..], &[end], &[right], &["{"], &[]] {
            assert!(answer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_that_means_later_is_told_by_its_status_and_not_by_its_words() {
        let refused = |status, body: &'static str| {
            let answer = Answer { status, body: body.into(), length: body.len() as u64 };
            answer.successful().err().unwrap().context("create")
        };
        assert!(is_for_later(&refused(StatusCode::SERVICE_UNAVAILABLE, "being built")));
        assert!(!is_for_later(&refused(StatusCode::NOT_FOUND, "503")));
        assert!(!is_for_later(&anyhow::anyhow!("503")));
    }
}
