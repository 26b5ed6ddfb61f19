//! A cold create, from request to answer, one at a time; beside runc and bubblewrap, which make a
//! sandbox, run a program that does nothing, and take it down.

use std::{sync::Arc, time::Instant};

use futures_util::future::BoxFuture;

use super::Stage;
use crate::{
    api::Api,
    client::Client,
    load::{Lane, Programs, Turn, interleave},
    peers::{self, programs},
    report::{At, Of, Report},
    scratch::Scratch,
    tally::Tally,
};

const ALONE: &str = "one at a time";

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let mut lanes = vec![
        Lane::new("create", "coppice", ALONE, Creates::new(api, Timed::Create)),
        Lane::new("create and kill", "coppice", ALONE, Creates::new(api, Timed::Both)),
    ];
    let bundle = Scratch::new()?;
    if let Some(template) = stage.template()? {
        report.note(format!(
            "peers: {}; bubblewrap {}; both run /bin/true in the template's tree, read-only, in \
             namespaces of its own (network included), and their time includes its end",
            peers::version("runc", "--version"),
            peers::version("bwrap", "--version"),
        ));
        let runc = Programs(programs::runc(&template, &bundle)?);
        lanes.push(Lane::new("run /bin/true", "runc run", ALONE, runc));
        let bwrap = Programs(programs::bwrap(&template)?);
        lanes.push(Lane::new("run /bin/true", "bwrap", ALONE, bwrap));
    }
    interleave(&mut lanes, stage.rounds(10, 50)).await?;

    report.lanes(&lanes, Of::P50);
    for peer in lanes.iter().skip(2) {
        report.ratio(&lanes[1], peer, Of::P50);
    }
    let third = 1.0 / 3.0;
    report.aim("cold create, p50", At::Most, 10.0, "ms", lanes[0].total.quantile(0.5));
    report.aim_ratio("cold create by `runc run`, p50", At::Most, third, &lanes[0], "runc run");
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Timed {
    Create,
    Kill,
    Both,
}

/// Creates a sandbox and kills it.
pub(super) struct Creates {
    api: Arc<Api>,
    client: Client,
    timed: Timed,
}

impl Creates {
    pub(super) fn new(api: &Arc<Api>, timed: Timed) -> Self {
        Self { api: Arc::clone(api), client: api.client(), timed }
    }

    async fn once(&mut self, tally: &mut Tally) {
        let start = Instant::now();
        let sandbox = match self.api.create(&mut self.client).await {
            Ok(sandbox) => sandbox,
            Err(error) => return tally.count(start, Err(error)),
        };
        if self.timed == Timed::Create {
            tally.count(start, Ok(0));
        }
        let start = if self.timed == Timed::Both { start } else { Instant::now() };
        match sandbox.kill(&mut self.client).await {
            Ok(()) if self.timed == Timed::Create => {}
            outcome => tally.count(start, outcome.map(|()| 0)),
        }
    }
}

impl Turn for Creates {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        Box::pin(async move {
            let (mut tally, began) = (Tally::default(), Instant::now());
            for _ in 0..count {
                self.once(&mut tally).await;
            }
            tally.lasted = began.elapsed();
            Ok(tally)
        })
    }
}
