//! A kill, from request to answer, one at a time, of a sandbox that was made just before.

use super::{
    Stage,
    create::{Creates, Timed},
};
use crate::{
    load::{Lane, interleave},
    report::{At, Of, Report},
};

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let kills = Creates::new(&stage.gateway.api, Timed::Kill);
    let mut lanes = [Lane::new("kill", "coppice", "one at a time", kills)];
    interleave(&mut lanes, stage.rounds(10, 50)).await?;
    report.lanes(&lanes, Of::P50);
    report.aim("kill, p50", At::Most, 5.0, "ms", lanes[0].total.quantile(0.5));
    Ok(())
}
