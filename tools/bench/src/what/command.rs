//! A command's round trip: Start of /bin/true by a raw Connect client, to the end of its stream;
//! beside nsenter, which is run to do the same in a sandbox of bubblewrap's.

use super::Stage;
use crate::{
    api::Sandbox,
    client::Client,
    load::{Closed, Lane, Programs, Work, interleave},
    peers::{self, programs::Sleeper},
    report::{At, Of, Report},
};

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let mut client = stage.gateway.api.client();
    let sandbox = stage.gateway.api.create(&mut client).await?;
    let one = Closed(vec![Commands::new(&sandbox)]);
    let ten = Closed((0..10).map(|_| Commands::new(&sandbox)).collect());
    let mut lanes = vec![Lane::new("run /bin/true", "coppice", "one at a time", one)];
    let mut sleeper = None;
    if let Some(template) = stage.template()? {
        report.note(format!(
            "peer: {}, of /bin/true into a sandbox of bubblewrap's in the template's tree",
            peers::version("nsenter", "--version")
        ));
        let started = sleeper.insert(Sleeper::start(&template)?);
        let nsenter = Programs(started.nsenter()?);
        lanes.push(Lane::new("run /bin/true", "nsenter", "one at a time", nsenter));
    }
    interleave(&mut lanes, stage.rounds(10, 200)).await?;
    report.lanes(&lanes, Of::P50);

    let mut crowd = [Lane::new("run /bin/true, ten clients", "coppice", "10 at once", ten)];
    interleave(&mut crowd, stage.rounds(3, 500)).await?;
    report.lanes(&crowd, Of::P50);

    let p50 = lanes[0].total.quantile(0.5);
    report.aim("command round trip, p50", At::Most, 3.0, "ms", p50);
    sandbox.kill(&mut client).await
}

pub(super) struct Commands {
    sandbox: Sandbox,
    client: Client,
}

impl Commands {
    pub(super) fn new(sandbox: &Sandbox) -> Self {
        Self { sandbox: sandbox.clone(), client: sandbox.client() }
    }
}

impl Work for Commands {
    async fn once(&mut self) -> anyhow::Result<u64> {
        self.sandbox.run(&mut self.client, "/bin/true", &[]).await.map(|()| 0)
    }
}
