//! Which content encoding a client wants, of the two there are.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

/// Nothing that was offered is acceptable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unacceptable;

/// What `Accept-Encoding` asks for: the supported encoding it names with the highest quality, the
/// first of equals; otherwise identity, unless that is refused. `plain` leaves only identity.
pub(super) fn choose(accept: Option<&str>, plain: bool) -> Result<Encoding, Unacceptable> {
    let mut best: Option<(f32, Encoding)> = None;
    let (mut identity, mut wildcard, mut gzip) = (None, None, None);
    for item in accept.unwrap_or_default().split(',') {
        let (name, quality) = parse(item);
        let encoding = match name.as_str() {
            "gzip" | "x-gzip" => {
                gzip = Some(quality);
                Encoding::Gzip
            }
            "identity" => {
                identity = Some(quality);
                Encoding::Identity
            }
            "*" => {
                wildcard = Some(quality);
                continue;
            }
            _ => continue,
        };
        let allowed = quality > 0.0 && !(plain && encoding == Encoding::Gzip);
        if allowed && best.is_none_or(|(so_far, _)| quality > so_far) {
            best = Some((quality, encoding));
        }
    }
    let identity_refused = identity.or(wildcard) == Some(0.0);
    match best {
        Some((_, encoding)) => Ok(encoding),
        None if !identity_refused => Ok(Encoding::Identity),
        // `identity;q=0, *`: anything else will do.
        None if !plain && gzip.is_none() && wildcard.is_some_and(|quality| quality > 0.0) => {
            Ok(Encoding::Gzip)
        }
        None => Err(Unacceptable),
    }
}

/// A quality that cannot be read counts as not named.
fn parse(item: &str) -> (String, f32) {
    let mut parts = item.split(';');
    let name = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let quality = parts
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
        .map_or(Ok(1.0), |(_, value)| value.trim().parse::<f32>());
    match quality {
        Ok(quality) if (0.0..=1.0).contains(&quality) => (name, quality),
        _ => (String::new(), 0.0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_highest_quality_wins_and_identity_is_the_fallback() {
        use Encoding::{Gzip, Identity};
        for (accept, expect) in [
            ("", Ok(Identity)),
            ("gzip, deflate, br, zstd", Ok(Gzip)),
            ("zstd,gzip,br", Ok(Gzip)),
            ("br", Ok(Identity)),
            ("GZIP;Q=0.5", Ok(Gzip)),
            ("gzip;q=0.5, identity", Ok(Identity)),
            ("gzip, identity", Ok(Gzip)),
            ("identity, gzip", Ok(Identity)),
            ("identity;q=0.5, gzip;q=0.8", Ok(Gzip)),
            ("gzip;q=0", Ok(Identity)),
            ("*", Ok(Identity)),
            ("*;q=0", Err(Unacceptable)),
            ("*;q=0, gzip", Ok(Gzip)),
            ("identity, *;q=0", Ok(Identity)),
            ("identity;q=0", Err(Unacceptable)),
            ("identity;q=0, *", Ok(Gzip)),
            ("identity;q=0, gzip;q=0, *", Err(Unacceptable)),
            ("br, identity;q=0", Err(Unacceptable)),
            ("gzip;q=nonsense", Ok(Identity)),
            ("gzip;q=7", Ok(Identity)),
        ] {
            assert_eq!(choose(Some(accept), false), expect, "{accept:?}");
        }
        assert_eq!(choose(None, false), Ok(Identity));
    }

    #[test]
    fn a_part_of_a_file_is_never_compressed() {
        assert_eq!(choose(Some("gzip"), true), Ok(Encoding::Identity));
        assert_eq!(choose(Some("gzip, identity;q=0"), true), Err(Unacceptable));
    }

    proptest! {
        #[test]
        fn gzip_comes_only_to_those_who_take_it(accept in "[gzipbrdentyq=.01;,* ]{0,40}") {
            if choose(Some(&accept), false) == Ok(Encoding::Gzip) {
                prop_assert!(accept.contains("gzip") || accept.contains('*'));
            }
        }
    }
}
