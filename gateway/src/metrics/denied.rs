//! Requests that are refused for who asked, or for what they wanted, by the reason.

use super::{counts::Counters, text::Text};

/// Why. docs/metrics.md says of each what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    NoKey,
    WrongKey,
    Scope,
    Tenant,
    Rate,
    Limit,
    WrongToken,
    Host,
    Origin,
    Internal,
    Egress,
    Streams,
    Connections,
}

impl Denied {
    /// In the order of their discriminants.
    const ALL: [(Self, &'static str); 13] = [
        (Self::NoKey, "no_key"),
        (Self::WrongKey, "wrong_key"),
        (Self::Scope, "scope"),
        (Self::Tenant, "tenant"),
        (Self::Rate, "rate"),
        (Self::Limit, "limit"),
        (Self::WrongToken, "wrong_token"),
        (Self::Host, "host"),
        (Self::Origin, "origin"),
        (Self::Internal, "internal"),
        (Self::Egress, "egress"),
        (Self::Streams, "streams"),
        (Self::Connections, "connections"),
    ];
}

#[derive(Debug, Default)]
pub(super) struct Denials(Counters<{ Denied::ALL.len() }>);

impl Denials {
    pub(super) fn add(&self, reason: Denied, count: u64) {
        self.0.add(reason as usize, count);
    }

    pub(super) fn tell(&self, text: &mut Text) {
        let name = "coppice_denied_total";
        text.counters(name, "What was refused for who asked or what it wanted, by why.");
        for ((_, reason), count) in Denied::ALL.iter().zip(self.0.values()) {
            text.sample(name, &[("reason", reason)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Format, *};

    #[test]
    fn each_reason_is_counted_by_its_own_name() {
        let denials = Denials::default();
        for (n, (reason, _)) in Denied::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, n);
            denials.add(*reason, n as u64);
        }
        let mut text = Text::new(Format::Plain, 0);
        denials.tell(&mut text);
        let text = text.finish();
        for (n, (_, name)) in Denied::ALL.iter().enumerate() {
            let line = format!("coppice_denied_total{{reason=\"{name}\"}} {n}");
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
