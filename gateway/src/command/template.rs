//! `coppice template`: what sandboxes can be made from, built and taken away by hand.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use clap::Subcommand;
use coppice::{
    config::{self, Config, Flags},
    data_dir::DataDir,
    limits::Bounds,
    sandbox,
    template::{Listed, Recipe, Source, Store},
};

#[derive(Subcommand)]
pub(crate) enum Template {
    /// Which there are
    List(Flags),
    /// All about one
    Show {
        name: String,
        #[command(flatten)]
        flags: Flags,
    },
    /// Build one that is missing or was built by an older recipe; a gateway may run
    Build {
        /// base or code-interpreter-v1; any name with --from
        name: String,
        /// Make it of a root file system: a directory, a tarball (base.txz), or zfs:DATASET
        #[arg(long, value_name = "SOURCE")]
        from: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Say what sandboxes of one may use; what is not said is as for any. A gateway that runs knows
    /// it from its next start on
    Limit {
        name: String,
        /// Such as memory=2048,cpus=4; nothing is as it was first
        #[arg(value_name = "LIMITS", default_value = "")]
        limits: String,
        #[command(flatten)]
        flags: Flags,
    },
    /// Take one away, with the layers that nothing needs any more; no gateway may run
    Rm {
        name: String,
        #[command(flatten)]
        flags: Flags,
    },
}

pub(crate) fn run(template: Template) -> anyhow::Result<ExitCode> {
    match template {
        Template::List(flags) => list(&settings(flags)?),
        Template::Show { name, flags } => show(&settings(flags)?, &name),
        Template::Build { name, from, flags } => build(&settings(flags)?, &name, from.as_deref()),
        Template::Limit { name, limits, flags } => limit(&settings(flags)?, &name, &limits),
        Template::Rm { name, flags } => remove(&settings(flags)?, &name),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn settings(flags: Flags) -> anyhow::Result<Config> {
    let config = config::load(flags)?;
    super::log(&config);
    Ok(config)
}

/// Of a data directory that is there: looking makes none.
fn open(config: &Config) -> anyhow::Result<Arc<Store>> {
    let dir = &config.data_dir;
    let there = dir.try_exists().with_context(|| format!("data-dir {}", dir.display()))?;
    anyhow::ensure!(there, "there is no data directory {}", std::path::absolute(dir)?.display());
    Ok(Store::open(dir, |_, _| {})?)
}

fn list(config: &Config) -> anyhow::Result<()> {
    let listed = open(config)?.list()?;
    let mut rows = vec![["NAME", "BUILT", "SIZE", "STATE"].map(str::to_owned)];
    for one in listed {
        let size = one.template.layers.iter().map(|layer| size(layer)).sum::<io::Result<u64>>()?;
        rows.push([
            one.template.id.clone(),
            one.built_at.format("%Y-%m-%d %H:%M").to_string(),
            mib(size),
            state(&one).to_owned(),
        ]);
    }
    print_table(&mut io::stdout().lock(), &rows)?;
    Ok(())
}

fn show(config: &Config, name: &str) -> anyhow::Result<()> {
    let one = open(config)?.list()?.into_iter().find(|one| one.template.id == name);
    let one = one.with_context(|| format!("there is no template {name}"))?;
    let (template, limits) = (&one.template, one.template.limits);
    let mut out = io::stdout().lock();
    writeln!(out, "name       {}", template.id)?;
    writeln!(out, "state      {}", state(&one))?;
    writeln!(
        out,
        "built      {}",
        one.built_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    )?;
    writeln!(out, "node       {}", one.node.as_deref().unwrap_or("none"))?;
    let limits = limits.told().into_iter().map(|(limit, units)| format!("{limit}={units}"));
    writeln!(out, "limits     {}", limits.collect::<Vec<_>>().join(","))?;
    writeln!(out, "user       {}", template.user)?;
    for (place, layer) in template.layers.iter().enumerate() {
        let title = if place == 0 { "layers" } else { "" };
        writeln!(out, "{title:<10} {:>9}  {}", mib(size(layer)?), layer.display())?;
    }
    Ok(())
}

fn build(config: &Config, name: &str, from: Option<&str>) -> anyhow::Result<()> {
    let source = from.map(Source::parse).transpose().context("--from")?;
    let recipe = Recipe::named(name);
    anyhow::ensure!(
        source.is_some() || recipe.is_some(),
        "there is no recipe of {name}, only of {}; with --from it is made of a root file system",
        Recipe::ALL.map(Recipe::name).join(", ")
    );
    let began = Instant::now();
    let told: fn(&str, &str) = if io::stdout().is_terminal() {
        |name, step| {
            // The step before is written over.
            print!("\r\x1b[K{name}: {step}");
            let _ = io::stdout().flush();
        }
    } else {
        |name, step| println!("{name}: {step}")
    };
    let store = Store::open(&config.data_dir, told)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let built = runtime.block_on(async {
        match (source, recipe) {
            (Some(source), _) => store.import(name, source).await,
            (None, Some(recipe)) => store.build(recipe).await,
            (None, None) => Ok(()),
        }
    });
    if io::stdout().is_terminal() {
        // Also before the error.
        println!();
    }
    built.with_context(|| format!("template {name}"))?;
    println!("{name} is ready, {} s", began.elapsed().as_secs());
    Ok(())
}

fn limit(config: &Config, name: &str, limits: &str) -> anyhow::Result<()> {
    let said = Bounds::parse(limits);
    let said = said.map_err(|allowed| anyhow::anyhow!("{limits:?} is not {allowed}"))?;
    open(config)?.limit(name, &said)?;
    show(config, name)
}

fn remove(config: &Config, name: &str) -> anyhow::Result<()> {
    let store = open(config)?;
    // Nobody may make a sandbox from what is about to go.
    let data_dir = DataDir::claim(&config.data_dir)?;
    let used = sandbox::layers_in_use(data_dir.path())?;
    store.remove(name, &used)?;
    println!("{name} is removed");
    Ok(())
}

fn state(one: &Listed) -> &'static str {
    match one.current {
        Some(true) => "current",
        Some(false) => "older recipe",
        None => "own",
    }
}

/// Bytes on the disk.
fn size(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    let mut bytes = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry: PathBuf = entry?.path();
            bytes += size(&entry)?;
        }
    }
    Ok(bytes)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Columns as wide as their widest cell, two blanks apart.
fn print_table<const N: usize>(out: &mut impl Write, rows: &[[String; N]]) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["NAME", "SIZE"], ["base", "407 MiB"]].map(|row| row.map(str::to_owned));
        let mut out = Vec::new();
        print_table(&mut out, &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME  SIZE\nbase  407 MiB\n");
    }

    #[test]
    fn the_size_is_what_lies_on_the_disk_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let size = size(dir.path()).unwrap();
        assert!((1 << 20..2 << 20).contains(&size), "{size}");
    }
}
