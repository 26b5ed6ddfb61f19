//! Which cases are run, each in a process of its own, and what is said of them.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{
    Case,
    cases::adoption,
    platform::{self, Place},
    world::World,
};

/// For a case on a slow, emulated machine; the longest takes some seconds on a real one.
const TIMEOUT: Duration = Duration::from_secs(300);

/// As libtest has it.
const SOME_FAILED: u8 = 101;
/// By which a case says that this host cannot have what it is about.
const IGNORED: i32 = 77;

/// Somebody wants no more of this.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Of a case's output and of each log (bytes).
const SHOWN: u64 = 32 << 10;

/// Runs this program in whichever part its arguments say. What `set_up` returns lasts as long as
/// the cases do.
pub(crate) fn main<T>(cases: Vec<Case>, set_up: impl FnOnce() -> T) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["envd", ..] => envd::run(),
        ["--case", name, data_dir, root] => in_runtime(run_case(
            cases.into_iter().find(|case| case.name == name).expect("a case of that name"),
            Path::new(data_dir),
            Path::new(root),
        )),
        ["--gateway", way, id, data_dir, root] => in_runtime(async {
            adoption::gateway(way, id, Path::new(data_dir), Path::new(root)).await
        }),
        ["--clear", data_dir] => in_runtime(async { World::clear(Path::new(data_dir)).await }),
        _ => {
            let options = Options::parse(&words);
            if options.list {
                let chosen: Vec<_> = cases
                    .iter()
                    .map(|case| case.name)
                    .filter(|name| options.choose(name))
                    .collect();
                chosen.iter().for_each(|name| println!("{name}: test"));
                println!("\n{} tests, 0 benchmarks", chosen.len());
                return ExitCode::SUCCESS;
            }
            if let Err(missing) = platform::ready() {
                println!("skipped: {missing}");
                return match std::env::var_os("CI") {
                    Some(_) => ExitCode::FAILURE,
                    None => ExitCode::SUCCESS,
                };
            }
            let _lasts = set_up();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run_all(&options, &cases))
        }
    }
}

fn in_runtime(part: impl Future<Output = ()>) -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).init();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(part);
    ExitCode::SUCCESS
}

async fn run_case(case: Case, data_dir: &Path, root: &Path) {
    let world = World::new(data_dir, root).await;
    (case.run)(&world).await;
    world.assert_as_before().await;
    world.retire().await;
}

/// Ends a case, in the process of its own, where this host cannot have what it is about.
pub(crate) fn ignore(reason: impl std::fmt::Display) -> ! {
    println!("{reason}");
    std::process::exit(IGNORED)
}

#[derive(Default)]
struct Options {
    filters: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    timeout: Option<Duration>,
}

impl Options {
    /// Others of libtest's flags mean nothing here, and cargo may pass them.
    fn parse(words: &[&str]) -> Self {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().map(ToString::to_string).expect("a value");
            match *word {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--skip" => options.skipped.push(value()),
                "--timeout" => {
                    let seconds = value().parse().expect("seconds");
                    options.timeout = Some(Duration::from_secs(seconds));
                }
                "--test-threads" | "--format" | "--color" => drop(value()),
                flag if flag.starts_with('-') => {}
                filter => options.filters.push(filter.to_owned()),
            }
        }
        options
    }

    fn choose(&self, name: &str) -> bool {
        let fits = |filter: &String| match self.exact {
            true => name == filter,
            false => name.contains(filter.as_str()),
        };
        !self.skipped.iter().any(fits) && (self.filters.is_empty() || self.filters.iter().any(fits))
    }
}

enum Outcome {
    Ok,
    Ignored(String),
    Failed(String),
}

async fn run_all(options: &Options, cases: &[Case]) -> ExitCode {
    let began = Instant::now();
    let base = nix::unistd::mkdtemp(&std::env::temp_dir().join("cbt-XXXXXX")).expect("mkdtemp");
    let base = base.canonicalize().expect("a directory");
    let root = std::env::var_os("COPPICE_TEST_ROOTFS").map_or_else(
        || {
            let root = base.join("root");
            platform::make_root(&root);
            root
        },
        PathBuf::from,
    );
    let places = Place::all(&base);
    let whole = |place: &Place, case: &Case| match place.name() {
        "" => case.name.to_owned(),
        kind => format!("{kind}::{}", case.name),
    };
    let all = places.iter().flat_map(|place| cases.iter().map(move |case| (place, case)));
    let all: Vec<_> = all.map(|(place, case)| (whole(place, case), place, case)).collect();
    let (chosen, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, ..)| options.choose(name));
    let filtered = others.len();
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut ignored, mut failures) = (0, 0, Vec::new());
    for (number, (name, place, case)) in chosen.iter().enumerate() {
        print!("test {name} ... ");
        io::stdout().flush().expect("standard output");
        let began = Instant::now();
        let data_dir = place.make(number);
        let outcome = one(options, case, place, &data_dir, &root).await;
        let took = began.elapsed().as_secs_f64();
        match outcome {
            Outcome::Ok => {
                passed += 1;
                println!("ok <{took:.3}s>");
            }
            Outcome::Ignored(reason) => {
                ignored += 1;
                println!("ignored, {reason}");
            }
            Outcome::Failed(text) => {
                println!("FAILED <{took:.3}s>");
                failures.push((name, text));
            }
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
    }
    places.iter().for_each(Place::end);
    // Only empty if all could be cleared; what is mounted below must not be walked into.
    if std::env::var_os("COPPICE_TEST_ROOTFS").is_none() {
        fs::remove_dir_all(&root).expect("the root can be removed");
    }
    let _ = fs::remove_dir(&base);
    if !failures.is_empty() {
        println!("\nfailures:");
        failures.iter().for_each(|(name, text)| println!("\n---- {name} ----\n{text}"));
        println!("\nfailures:");
        failures.iter().for_each(|(name, _)| println!("    {name}"));
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {ignored} ignored; 0 measured; \
         {filtered} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
        began.elapsed().as_secs_f64()
    );
    match failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(SOME_FAILED),
    }
}

async fn one(
    options: &Options,
    case: &Case,
    place: &Place,
    data_dir: &Path,
    root: &Path,
) -> Outcome {
    for name in ["sandboxes", "trash"] {
        fs::create_dir_all(data_dir.join(name)).expect("a data directory");
    }
    let root = place.root(data_dir, root);
    let output = data_dir.join("output");
    let arguments = ["--case", case.name, as_text(data_dir), as_text(&root)];
    let ended = part(&arguments, &output, options.timeout.unwrap_or(TIMEOUT)).await;
    let mut text = match ended {
        Ok(status) if status.success() => return clear(place, data_dir, Outcome::Ok).await,
        Ok(status) if status.code() == Some(IGNORED) && std::env::var_os("CI").is_none() => {
            let said = end_of(&output);
            let reason = said.lines().last().unwrap_or("no reason").to_owned();
            return clear(place, data_dir, Outcome::Ignored(reason)).await;
        }
        Ok(status) => format!("{status}\n"),
        Err(error) => format!("{error}\n"),
    };
    text += &end_of(&output);
    for entry in fs::read_dir(data_dir.join("sandboxes")).into_iter().flatten().flatten() {
        let log = entry.path().join("envd.log");
        if log.exists() {
            text += &format!("\n-- {}\n{}", log.display(), end_of(&log));
        }
    }
    clear(place, data_dir, Outcome::Failed(text)).await
}

/// Runs this program in another part, with its output in a file.
async fn part(arguments: &[&str], output: &Path, longest: Duration) -> io::Result<ExitStatus> {
    let file = File::options().append(true).create(true).open(output)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .kill_on_drop(true)
        .spawn()?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = timeout(longest, child.wait()) => match ended {
            Ok(status) => status,
            Err(_) => {
                child.kill().await?;
                Err(io::Error::other(format!("not over after {longest:?}: killed")))
            }
        },
        _ = async { tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }} => {
            INTERRUPTED.store(true, Ordering::Relaxed);
            Err(io::Error::other("interrupted"))
        }
    }
}

/// Removes whatever a case has left in the kernel, and then its directory.
async fn clear(place: &Place, data_dir: &Path, outcome: Outcome) -> Outcome {
    let output = data_dir.join("output");
    let said_before = fs::metadata(&output).map_or(0, |file| file.len());
    let cleared = match outcome {
        Outcome::Ok => Ok(()),
        _ => match part(&["--clear", as_text(data_dir)], &output, TIMEOUT).await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{status}")),
            Err(error) => Err(error.to_string()),
        },
    };
    let mounts = platform::mounts_below(data_dir);
    let cleared = cleared.and_then(|()| match &mounts[..] {
        [] => place.remove(data_dir),
        left => Err(format!("mounts are left: {left:?}")),
    });
    let Err(why) = cleared else { return outcome };
    let mut text = match outcome {
        Outcome::Failed(text) => text,
        Outcome::Ok | Outcome::Ignored(_) => String::new(),
    };
    let said = end_of(&output);
    let said = &said[usize::try_from(said_before).unwrap_or(usize::MAX).min(said.len())..];
    text += &format!("\n-- {} could not be cleared: {why}\n{said}", data_dir.display());
    Outcome::Failed(text)
}

fn as_text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn end_of(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("{}: {error}", path.display()))
}
