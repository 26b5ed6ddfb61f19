//! Routes of envd's that are for the gateway alone.

use percent_encoding::percent_decode_str;

const INTERNAL: [&str; 8] =
    ["init", "warm", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade"];

/// How often a path may be encoded over before it is closed unread.
const MAX_DECODINGS: usize = 4;

/// Whether envd, or any router more lenient than it, could take `path` for an internal route.
///
/// None of envd's public paths has a segment of such a name, so a match anywhere closes it: there
/// is no need to agree with a router on what `..` and `//` mean.
pub(super) fn is_internal(path: &str) -> bool {
    let mut path = path.to_owned();
    for _ in 0..MAX_DECODINGS {
        if path.split(['/', '\\']).any(names_internal) {
            return true;
        }
        let decoded = percent_decode_str(&path).decode_utf8_lossy().into_owned();
        if decoded == path {
            return false;
        }
        path = decoded;
    }
    true
}

fn names_internal(segment: &str) -> bool {
    let name = segment.split([';', '?', '#', '\0']).next().unwrap_or_default().trim();
    INTERNAL.iter().any(|internal| internal.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_routes_are_closed_in_every_spelling() {
        for path in [
            "/init",
            "/init/",
            "//init",
            "/./init",
            "/files/../init",
            "/INIT",
            "/%69nit",
            "/%2569nit",
            "/%2Finit",
            "/files%2f..%2Finit",
            "/init;a=b",
            "/init%3Fx",
            "/init%00",
            "/init%20",
            "/\\init",
            "/warm",
            "/freeze",
            "/unfreeze",
            "/collapse",
            "/fsfreeze",
            "/fsthaw",
            "/upgrade",
            "/init/x",
            "/%25252525252569nit",
        ] {
            assert!(is_internal(path), "{path}");
        }
    }

    #[test]
    fn public_routes_are_open() {
        for path in [
            "/",
            "*",
            "/health",
            "/envs",
            "/metrics",
            "/files",
            "/files/compose",
            "/process.Process/Start",
            "/filesystem.Filesystem/Stat",
            "/initial",
            "/%E0%A4%A",
        ] {
            assert!(!is_internal(path), "{path}");
        }
    }
}
