//! What watching costs with a thousand live sandboxes: a scrape, the sampler, and the scraper that
//! writes a day of them down; and how long the site of a month of samples takes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::BoxFuture;

use super::{Stage, burst::kill_all, lifecycle};
use crate::{
    api::Api,
    client::Client,
    load::{Lane, Turn, interleave},
    report::{At, Of, Report},
    scratch::Scratch,
    tally::Tally,
};

const SANDBOXES: usize = 1000;
const CLIENTS: usize = 8;
const ALONE: &str = "one at a time";
/// Of the day's file that the scraper goes on with.
const DAY: u64 = 10_000_000;
/// From the top of the repository, where this program is run.
const SITE: &str = "tools/site.sh";

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let quick = stage.amount.quick;
    let count = if quick { 5 } else { SANDBOXES };
    let rest = Duration::from_secs(if quick { 1 } else { 30 });
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| stage.gateway.api.client()).collect();
    let alone = at_rest(&stage.gateway.api, &mut clients[0], rest).await?;
    eprintln!("    {count} sandboxes are made");
    let sandboxes = lifecycle::make(stage, &mut clients, count).await?;
    report.note(format!(
        "{count} sandboxes, one in ten of them paused; the gateway's CPU at rest is what its process \
         took in {} s, {alone:.2} ms a second before the first was made: a sweep of the sampler \
         each second, and all else that goes on",
        rest.as_secs()
    ));
    let beside = at_rest(&stage.gateway.api, &mut clients[0], rest).await? - alone;
    let how = format!("{count} sandboxes");
    scrapes(stage, report, &how).await?;
    report.figures(&format!("CPU of the gateway for each second at rest, {how}"), "ms", &[beside]);
    let aim = format!("sweep of the sampler, {how}, CPU");
    report.aim(&aim, At::Most, 20.0, "ms", beside);
    looks(stage, report, &how)?;
    kill_all(&sandboxes, &mut clients).await?;
    // That it can be built is seen to where the site is tested.
    if quick || !Path::new(SITE).exists() { Ok(()) } else { month(report) }
}

/// Milliseconds of CPU that the gateway takes for each second.
async fn at_rest(api: &Arc<Api>, client: &mut Client, rest: Duration) -> anyhow::Result<f64> {
    // What was begun before is over: the sizes of new sandboxes are found in some rounds of ten
    // seconds.
    tokio::time::sleep(rest).await;
    let name = "process_cpu_seconds_total";
    let (began, before) = (Instant::now(), api.figure(client, name).await?);
    tokio::time::sleep(rest).await;
    let spent = api.figure(client, name).await? - before;
    Ok(spent * 1000.0 / began.elapsed().as_secs_f64())
}

async fn scrapes(stage: &Stage, report: &mut Report, how: &str) -> anyhow::Result<()> {
    let rounds = stage.rounds(10, 20);
    for (what, coding) in [("scrape", "identity"), ("scrape, gzipped", "gzip")] {
        let api = &stage.gateway.api;
        let mut client = api.client();
        let length = api.scrape(&mut client, coding).await? as f64 / 1e3;
        report.figures(&format!("length of a {what}, {how}"), "kB", &[length]);
        let scrape = Scrape { api: Arc::clone(api), client, coding };
        let mut lanes = [Lane::new(what, "coppice", ALONE, scrape)];
        interleave(&mut lanes, rounds).await?;
        report.lanes(&lanes, Of::P50);
        let aim = format!("{what}, {how}, p50");
        report.aim(&aim, At::Most, 10.0, "ms", lanes[0].total.quantile(0.5));
    }
    Ok(())
}

struct Scrape {
    api: Arc<Api>,
    client: Client,
    coding: &'static str,
}

impl Turn for Scrape {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        Box::pin(async move {
            let (mut tally, began) = (Tally::default(), Instant::now());
            for _ in 0..count {
                let start = Instant::now();
                let scraped = self.api.scrape(&mut self.client, self.coding).await;
                tally.count(start, scraped.map(|_| 0));
            }
            tally.lasted = began.elapsed();
            Ok(tally)
        })
    }
}

/// A scraper that looks once, which comes to a day's file of ten megabytes and adds a line.
fn looks(stage: &Stage, report: &mut Report, how: &str) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("where this program is")?;
    let scraper = own.with_file_name("metrics-scraper");
    let scratch = Scratch::new()?;
    look(&scraper, stage, scratch.path())?;
    let day = only_file(scratch.path())?;
    let line = fs::read(&day).context("the scraper's line")?;
    let lines = DAY.div_ceil(line.len() as u64);
    fs::write(&day, line.repeat(usize::try_from(lines)?)).context("a day's file")?;
    let (mut tally, began) = (Tally::default(), Instant::now());
    for _ in 0..stage.rounds(1, 50).count {
        let start = Instant::now();
        let looked = look(&scraper, stage, scratch.path());
        tally.count(start, looked.map(|()| 0));
    }
    tally.lasted = began.elapsed();
    let length = line.len() as f64 / 1e3;
    report.figures(&format!("length of a line of the scraper, {how}"), "kB", &[length]);
    report.series("scraper --once, at a file of 10 MB", "coppice", how, &tally);
    Ok(())
}

fn look(scraper: &Path, stage: &Stage, out: &Path) -> anyhow::Result<()> {
    let mut look = Command::new(scraper);
    let (api, key) = (&stage.gateway.api, out.join("key"));
    fs::write(&key, api.key()).context("the scraper's key")?;
    look.args(["--once", "--url", &api.url(), "--out"]).arg(out).arg("--api-key-file").arg(key);
    let done = look.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("{}: not built?", scraper.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "the scraper: {}: {}", done.status, said.trim());
    Ok(())
}

/// The site of 30 days, as its script times it.
fn month(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("    the site of 30 days");
    let built = Command::new("sh").args([SITE, "month"]).stdin(Stdio::null()).output();
    let built = built.with_context(|| format!("sh {SITE}"))?;
    let said = String::from_utf8_lossy(&built.stdout);
    let complaint = String::from_utf8_lossy(&built.stderr);
    ensure!(built.status.success(), "{SITE} month: {}: {}", built.status, complaint.trim());
    let told = said.lines().find_map(|line| line.strip_prefix("==> 30 days: "));
    let (took, size) = told.and_then(took_and_size).with_context(|| format!("{SITE}: {said}"))?;
    report.aim("site of 30 days, built", At::Most, 20.0, "s", took / 1e3);
    report.aim("page of 30 days", At::Most, 1.0, "MB", size / 1e6);
    Ok(())
}

/// `6540 ms, a page of 335081 bytes`
fn took_and_size(told: &str) -> Option<(f64, f64)> {
    let (took, size) = told.split_once(" ms, a page of ")?;
    Some((took.parse().ok()?, size.strip_suffix(" bytes")?.parse().ok()?))
}

fn only_file(directory: &Path) -> anyhow::Result<PathBuf> {
    let all = fs::read_dir(directory).context("the scraper's directory")?;
    let mut files: Vec<PathBuf> = all.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    ensure!(files.len() == 1, "the scraper wrote {files:?}");
    files.pop().context("the scraper wrote nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_of_the_site_tells_is_understood() {
        assert_eq!(took_and_size("6540 ms, a page of 335081 bytes"), Some((6540.0, 335_081.0)));
        assert_eq!(took_and_size("6540 s, a page of 335081 bytes"), None);
    }
}
