//! Modes in the letters clients know: those of Go's `FileMode.String`.

const KIND: u32 = 0o170_000;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// `st_mode` as e.g. `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx` or `dtrwxrwxrwx`.
pub(crate) fn letters(mode: u32) -> String {
    let kind = match mode & KIND {
        0o040_000 => "d",
        0o120_000 => "L",
        0o060_000 => "D",
        0o020_000 => "Dc",
        0o010_000 => "p",
        0o140_000 => "S",
        _ => "",
    };
    // Go's order is "dalTLDpSugct": the character-device letter comes after setuid and setgid.
    let (kind, character) = match kind {
        "Dc" => ("D", "c"),
        kind => (kind, ""),
    };
    let mut text = String::with_capacity(14);
    text.push_str(kind);
    for (bit, letter) in [(SET_UID, "u"), (SET_GID, "g")] {
        if mode & bit != 0 {
            text.push_str(letter);
        }
    }
    text.push_str(character);
    if mode & STICKY != 0 {
        text.push('t');
    }
    if text.is_empty() {
        text.push('-');
    }
    for (position, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> position) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_go_prints_them() {
        for (mode, expect) in [
            (0o100_644, "-rw-r--r--"),
            (0o100_000, "----------"),
            (0o040_755, "drwxr-xr-x"),
            (0o041_777, "dtrwxrwxrwx"),
            (0o120_777, "Lrwxrwxrwx"),
            (0o104_755, "urwxr-xr-x"),
            (0o106_711, "ugrwx--x--x"),
            (0o042_775, "dgrwxrwxr-x"),
            (0o020_666, "Dcrw-rw-rw-"),
            (0o060_660, "Drw-rw----"),
            (0o010_600, "prw-------"),
            (0o140_755, "Srwxr-xr-x"),
        ] {
            assert_eq!(letters(mode), expect, "{mode:o}");
        }
    }
}
