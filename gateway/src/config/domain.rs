//! A domain below which sandboxes have their hosts, as it is given: with a port where they are not
//! reached on the usual one.

/// A domain in lower case; `None` for the empty text.
///
/// # Errors
/// What is allowed.
pub(super) fn parse(text: &str) -> Result<Option<String>, String> {
    let allowed = "a name such as sandboxes.example.org, or one with a port, without a scheme";
    if text.is_empty() {
        return Ok(None);
    }
    let lower = text.to_ascii_lowercase();
    let (name, port) = lower.split_once(':').map_or((&*lower, None), |(n, p)| (n, Some(p)));
    let label = |label: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port_is_one = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if name.len() > 200 || !name.split('.').all(label) || !port_is_one {
        return Err(allowed.to_owned());
    }
    Ok(Some(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_may_carry_a_port_and_is_lower_case() {
        let given = parse("Sbx.Example.test:8443").unwrap();
        assert_eq!(given.as_deref(), Some("sbx.example.test:8443"));
        assert_eq!(parse(""), Ok(None));
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for wrong in
            ["https://x.org", "*.x.org", "x.org:0", "x.org:http", "x..org", "-x.org", "x_y"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
