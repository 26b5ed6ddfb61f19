//! What a kernel says on its socket, in pieces of any size: its client gets lines of JSON in ASCII,
//! and the same ones however it was cut.

use envd::fuzzing::kernel;
use serde_json::value::RawValue;

pub(crate) fn target(bytes: &[u8]) {
    let Some((&size, said)) = bytes.split_first() else { return };
    let Some(lines) = kernel(said, usize::from(size).max(1)) else { return };
    assert!(lines.is_ascii());
    assert!(lines.is_empty() || lines.ends_with(b"\n"));
    let text = |lines: &[u8]| String::from_utf8(lines.to_vec()).expect("ASCII");
    for line in text(&lines).lines() {
        // Half a pair of surrogates is a kernel's own, and passed on: by its grammar that is JSON.
        let _: &RawValue = serde_json::from_str(line).expect("a line is JSON");
    }
    let whole = kernel(said, said.len().max(1)).expect("as good in one piece");
    // Output that is long is passed on as it comes.
    let is_output = |line: &&str| line.starts_with(r#"{"type":"std"#);
    let told = |lines: &[u8]| -> Vec<String> {
        text(lines).lines().filter(|line| !is_output(line)).map(str::to_owned).collect()
    };
    assert_eq!(told(&lines), told(&whole));
}
