//! What idle sandboxes take: envd's proportional set size (PSS), as the kernel counts it, and what
//! the gateway takes for each.

use anyhow::ensure;

use super::{Stage, burst::kill_all};
use crate::{
    api::Sandbox,
    client::Client,
    proc,
    report::{At, Report},
};

const SANDBOXES: usize = 100;

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let mut clients = [api.client()];
    let client = &mut clients[0];
    let count = if stage.amount.quick { 3 } else { SANDBOXES };
    let before = gateway_pss(stage)?;
    let mut sandboxes = Vec::new();
    for _ in 0..count {
        sandboxes.push(api.create(client).await?);
    }
    report.note(format!("{count} sandboxes; PSS: memory shared by n processes counts 1/n to each"));
    let idle = pss(&sandboxes)?;
    let what = "PSS of envd, idle since its create";
    report.figures(what, "MB", &idle);
    let mean = idle.iter().sum::<f64>() / idle.len() as f64;
    report.aim("envd of an idle sandbox, PSS, mean", At::Most, 2.0, "MB", mean);
    if let (Some(before), Some(after)) = (before, gateway_pss(stage)?) {
        let each = (after - before) / count as f64;
        report.figures("PSS of the gateway for each sandbox", "MB", &[each]);
        report.figures("PSS of the gateway with all of them", "MB", &[after]);
    }
    used(&sandboxes, client).await?;
    report.figures("PSS of envd, idle after a command", "MB", &pss(&sandboxes)?);
    kill_all(&sandboxes, &mut clients).await
}

async fn used(sandboxes: &[Sandbox], client: &mut Client) -> anyhow::Result<()> {
    for sandbox in sandboxes {
        sandbox.run(client, "/bin/true", &[]).await?;
    }
    Ok(())
}

/// Of each sandbox, in millions of bytes.
fn pss(sandboxes: &[Sandbox]) -> anyhow::Result<Vec<f64>> {
    let of_one = |sandbox: &Sandbox| {
        let envds = proc::envds(&sandbox.id)?;
        ensure!(!envds.is_empty(), "no envd of sandbox {} is found", sandbox.id);
        let mut sum = 0.0;
        for envd in envds {
            sum += megabytes(proc::sample(envd)?.pss_kib);
        }
        Ok(sum)
    };
    sandboxes.iter().map(of_one).collect()
}

fn gateway_pss(stage: &Stage) -> anyhow::Result<Option<f64>> {
    let sample = stage.gateway.pid().map(proc::sample).transpose()?;
    Ok(sample.map(|sample| megabytes(sample.pss_kib)))
}

fn megabytes(kib: f64) -> f64 {
    kib * 1024.0 / 1e6
}
