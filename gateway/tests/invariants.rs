//! What the sources must not say, and where: the architecture as far as text can check it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// All sources below the workspace, with their paths relative to it.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned();
    let mut found = Vec::new();
    for directory in ["gateway/src", "envd/src", "rctl-sys/src"] {
        collect(&root, &root.join(directory), &mut found);
    }
    assert!(found.len() > 20, "the sources are elsewhere: {found:?}");
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).expect("a source directory can be read") {
        let path: PathBuf = entry.expect("an entry can be read").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            found.push((name, fs::read_to_string(&path).expect("a source can be read")));
        }
    }
}

/// Code without its comments; prose may name what code may not.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.enumerate().map(|(n, line)| (n + 1, line))
}

/// Fails for every line in `within` that says `what`, save in the places of `allowed`.
fn only(what: &str, within: &str, allowed: &[&str]) {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let may = !name.starts_with(within) || allowed.iter().any(|place| name.starts_with(place));
        if may {
            continue;
        }
        for (n, line) in code(&text).filter(|(_, line)| says(line, what)) {
            wrong.push(format!("{name}:{n}: {}", line.trim()));
        }
    }
    assert!(wrong.is_empty(), "`{what}` is out of place:\n{}", wrong.join("\n"));
}

/// As a word of its own.
fn says(line: &str, what: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(what).any(|(at, _)| {
        !line[..at].ends_with(part_of_a_word)
            && !line[at + what.len()..].starts_with(part_of_a_word)
    })
}

#[test]
fn only_the_http_side_of_the_gateway_knows_axum() {
    let http = [
        "gateway/src/auth",
        "gateway/src/control/",
        "gateway/src/data/",
        "gateway/src/error/",
        "gateway/src/front_door",
        "gateway/src/lib.rs",
        "gateway/src/ops/",
        "gateway/src/serve",
    ];
    only("axum", "gateway/src/", &http);
}

#[test]
fn sandboxes_know_neither_http_nor_the_system() {
    for what in ["axum", "http", "hyper", "nix", "libc"] {
        only(what, "gateway/src/sandbox/", &[]);
    }
}

#[test]
fn only_platform_code_tells_systems_apart() {
    only("target_os", "", &["gateway/src/backend/", "rctl-sys/", "envd/src/os/"]);
}

#[test]
fn only_platform_code_is_unsafe() {
    let platform = [
        "gateway/src/backend/jail/",
        "gateway/src/backend/linux/",
        "rctl-sys/",
        "envd/src/os/",
        "envd/src/os.rs",
    ];
    only("unsafe", "", &platform);
}

#[test]
fn only_errors_choose_status_codes_of_failures() {
    for status in ["BAD_REQUEST", "UNAUTHORIZED", "NOT_FOUND", "SERVICE_UNAVAILABLE"] {
        let tests = ["gateway/src/error/", "gateway/src/control/tests", "gateway/src/data/tests"];
        only(&format!("StatusCode::{status}"), "gateway/src/", &tests);
    }
}

#[test]
fn no_source_file_outgrows_a_reader() {
    let long = sources().into_iter().map(|(name, text)| (text.lines().count(), name));
    let long: Vec<_> = long.filter(|(lines, _)| *lines > 600).collect();
    assert!(long.is_empty(), "longer than 600 lines: {long:?}");
}
