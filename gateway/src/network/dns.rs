//! As much of DNS (RFC 1035) as a sandbox of allowed names needs: one question of a name's
//! addresses, and their answer, written anew. What else a message may carry goes neither way.

use std::net::Ipv4Addr;

/// The longest message over UDP that nobody has to be asked about (RFC 6891 section 6.2.5).
pub const MOST_BYTES: usize = 1232;
/// Of one answer.
const MOST_ADDRESSES: usize = 16;
/// Aliases that lead to a name's addresses; a longer way is none.
const MOST_ALIASES: usize = 12;
/// Records of an answer that are looked at.
const MOST_RECORDS: u16 = 128;

const HEADER: usize = 12;
const A: u16 = 1;
const CNAME: u16 = 5;
const INTERNET: u16 = 1;

const RESPONSE: u8 = 0x80;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

/// What a message says of its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Found,
    BadQuestion,
    Failed,
    NoSuchName,
    Refused,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Found => 0,
            Self::BadQuestion => 1,
            Self::Failed => 2,
            Self::NoSuchName => 3,
            Self::Refused => 5,
        }
    }
}

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    id: u16,
    /// As text, without a dot at its end, in the letters that it came in.
    name: String,
    kind: u16,
}

/// A name's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub addresses: Vec<Ipv4Addr>,
    /// Seconds for which they hold.
    pub ttl: u32,
}

impl Question {
    /// The question of a message, if it is one of the internet's names.
    pub fn read(message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<HEADER>()?;
        let count = u16::from_be_bytes([header[4], header[5]]);
        // Of those with an opcode other than 0 nothing is known.
        if header[2] & 0xf8 != 0 || count != 1 {
            return None;
        }
        let (name, at) = name(message, HEADER, false)?;
        let kind = number(message, at)?;
        let class = number(message, at + 2)?;
        (class == INTERNET).then(|| Self {
            id: u16::from_be_bytes([header[0], header[1]]),
            name,
            kind,
        })
    }

    /// The id of a message that is a question of another kind, to be refused by.
    pub fn id_of(message: &[u8]) -> Option<u16> {
        let header = message.first_chunk::<HEADER>()?;
        (header[2] & RESPONSE == 0).then(|| u16::from_be_bytes([header[0], header[1]]))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is for addresses that a sandbox could use.
    pub fn wants_addresses(&self) -> bool {
        self.kind == A
    }

    /// The same name's addresses, asked by somebody else: in letters that say nothing.
    pub fn of(name: &str, id: u16) -> Self {
        Self { id, name: name.to_ascii_lowercase(), kind: A }
    }

    pub fn write(&self) -> Vec<u8> {
        let mut message = head(self.id, RECURSION_DESIRED, 0, 1, 0);
        self.put(&mut message);
        message
    }

    fn put(&self, message: &mut Vec<u8>) {
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(self.kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
    }

    /// The message that answers it, with those addresses.
    pub fn answer(&self, outcome: Outcome, answer: &Answer) -> Vec<u8> {
        let count = answer.addresses.len() as u16;
        let flags = RESPONSE | RECURSION_DESIRED;
        let mut message = head(self.id, flags, outcome.code(), 1, count);
        self.put(&mut message);
        for address in &answer.addresses {
            // Of the name in the question.
            message.extend([0xc0, HEADER as u8]);
            message.extend(A.to_be_bytes());
            message.extend(INTERNET.to_be_bytes());
            message.extend(answer.ttl.to_be_bytes());
            message.extend(4_u16.to_be_bytes());
            message.extend(address.octets());
        }
        message
    }

    /// What a message that answers it says: the addresses of its name, by whatever aliases.
    ///
    /// # Errors
    /// When it says that there are none, or is no answer to this.
    pub fn understand(&self, message: &[u8]) -> Result<Answer, Outcome> {
        self.read_answer(message).ok_or(Outcome::Failed)?
    }

    /// `None` where it is none.
    fn read_answer(&self, message: &[u8]) -> Option<Result<Answer, Outcome>> {
        let header = message.first_chunk::<HEADER>()?;
        let (asked, at) = name(message, HEADER, false)?;
        let same = u16::from_be_bytes([header[0], header[1]]) == self.id
            && header[2] & RESPONSE != 0
            && u16::from_be_bytes([header[4], header[5]]) == 1
            && asked.eq_ignore_ascii_case(&self.name)
            && number(message, at)? == self.kind;
        if !same {
            return None;
        }
        match header[3] & 0x0f {
            0 => {}
            3 => return Some(Err(Outcome::NoSuchName)),
            _ => return Some(Err(Outcome::Failed)),
        }
        let count = u16::from_be_bytes([header[6], header[7]]).min(MOST_RECORDS);
        let records = records(message, at + 4, count);
        let mut wanted = asked.to_ascii_lowercase();
        let mut ttl = u32::MAX;
        for _ in 0..=MOST_ALIASES {
            let of_it = records.iter().filter(|record| record.name == wanted);
            let mut addresses = Vec::new();
            let mut alias = None;
            for record in of_it {
                ttl = ttl.min(record.ttl);
                match &record.data {
                    Data::Address(address) => addresses.push(*address),
                    Data::Alias(name) => alias = Some(name),
                }
            }
            if !addresses.is_empty() {
                addresses.truncate(MOST_ADDRESSES);
                return Some(Ok(Answer { addresses, ttl }));
            }
            match alias {
                Some(name) => wanted.clone_from(name),
                None => break,
            }
        }
        Some(Ok(Answer::default()))
    }
}

/// To a question of which only the id is known.
pub fn refuse(id: u16) -> Vec<u8> {
    head(id, RESPONSE, Outcome::BadQuestion.code(), 0, 0)
}

fn head(id: u16, flags: u8, code: u8, questions: u16, answers: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(512);
    message.extend(id.to_be_bytes());
    let available = if flags & RESPONSE == 0 { 0 } else { RECURSION_AVAILABLE };
    message.extend([flags, available | code]);
    message.extend(questions.to_be_bytes());
    message.extend(answers.to_be_bytes());
    message.extend([0; 4]);
    message
}

struct Record {
    /// In lower case.
    name: String,
    ttl: u32,
    data: Data,
}

enum Data {
    Address(Ipv4Addr),
    Alias(String),
}

/// Those of addresses and aliases, as far as they can be read.
fn records(message: &[u8], mut at: usize, count: u16) -> Vec<Record> {
    let mut found = Vec::new();
    for _ in 0..count {
        let Some((record, next)) = record(message, at) else { break };
        found.extend(record);
        at = next;
    }
    found
}

fn record(message: &[u8], at: usize) -> Option<(Option<Record>, usize)> {
    let (owner, at) = name(message, at, true)?;
    let (kind, class) = (number(message, at)?, number(message, at + 2)?);
    let ttl = u32::from_be_bytes(*message.get(at + 4..)?.first_chunk()?);
    let length = usize::from(number(message, at + 8)?);
    let start = at + 10;
    let data = message.get(start..start + length)?;
    let data = match kind {
        A if class == INTERNET => <[u8; 4]>::try_from(data).ok().map(|it| Data::Address(it.into())),
        CNAME if class == INTERNET => {
            name(message, start, true).map(|(name, _)| Data::Alias(name.to_ascii_lowercase()))
        }
        _ => None,
    };
    let record = data.map(|data| Record { name: owner.to_ascii_lowercase(), ttl, data });
    Some((record, start + length))
}

/// A name at that place, and where it ends. Labels that are not plain text are in no name of ours.
fn name(message: &[u8], start: usize, pointers: bool) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut end) = (start, None);
    // Each pointer leads back, so they come to an end; few are needed.
    for _ in 0..128 {
        let length = usize::from(*message.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some((name, end.unwrap_or(at + 1))),
            0 => {
                let label = message.get(at + 1..at + 1 + length)?;
                let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
                if !label.iter().all(plain) || name.len() + length > 253 {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(std::str::from_utf8(label).ok()?);
                at += 1 + length;
            }
            3 if pointers => {
                let to = usize::from(number(message, at)? & 0x3fff);
                end.get_or_insert(at + 2);
                if to >= at {
                    return None;
                }
                at = to;
            }
            _ => return None,
        }
    }
    None
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn labels(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn resource(name: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut record = name.to_vec();
        record.extend(kind.to_be_bytes());
        record.extend(INTERNET.to_be_bytes());
        record.extend(ttl.to_be_bytes());
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        record
    }

    fn answer(question: &Question, code: u8, records: &[Vec<u8>]) -> Vec<u8> {
        let mut message = head(question.id, RESPONSE, code, 1, records.len() as u16);
        question.put(&mut message);
        message.extend(records.concat());
        message
    }

    #[test]
    fn a_question_is_read_and_asked_in_other_letters() {
        let asked = Question { id: 7, name: "wWw.Example.com".into(), kind: A };
        assert_eq!(Question::read(&asked.write()), Some(asked));
        assert_eq!(Question::of("wWw.Example.com", 9).name(), "www.example.com");
        for wrong in [
            &[0; 11][..],
            &Question { id: 7, name: "a\u{0}b".into(), kind: A }.write(),
            &[&[0, 7, 0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &labels("a"), &[0, 1, 0, 1]].concat(),
            &[&[0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0][..], &labels("a"), &[0, 1, 0, 1]].concat(),
            &[&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 12], &[0, 1, 0, 1]].concat(),
            &[&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &labels("a"), &[0, 1, 0, 3]].concat(),
        ] {
            assert_eq!(Question::read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn addresses_are_found_by_aliases_and_hold_as_long_as_all_of_the_way() {
        let asked = Question::of("www.a.test", 7);
        let message = answer(
            &asked,
            0,
            &[
                resource(&[0xc0, 12], CNAME, 300, &labels("cdn.b.test")),
                resource(&labels("stranger.test"), A, 1, &TWO.octets()),
                resource(&labels("CDN.b.test"), A, 60, &ONE.octets()),
                resource(&labels("cdn.b.test"), 28, 5, &[0; 16]),
                resource(&labels("cdn.b.test"), A, 90, &TWO.octets()),
            ],
        );
        let found = asked.understand(&message).unwrap();
        assert_eq!(found, Answer { addresses: vec![ONE, TWO], ttl: 60 });
        assert_eq!(asked.understand(&asked.answer(Outcome::Found, &found)).unwrap(), found);
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let asked = Question::of("www.a.test", 7);
        let good = resource(&[0xc0, 12], A, 300, &ONE.octets());
        assert!(asked.understand(&answer(&asked, 0, std::slice::from_ref(&good))).is_ok());
        for other in [Question::of("www.a.test", 8), Question::of("www.b.test", 7)] {
            let message = answer(&other, 0, std::slice::from_ref(&good));
            assert_eq!(asked.understand(&message), Err(Outcome::Failed));
        }
        assert_eq!(asked.understand(&asked.write()), Err(Outcome::Failed), "a question is none");
        assert_eq!(asked.understand(&answer(&asked, 3, &[])), Err(Outcome::NoSuchName));
        assert_eq!(asked.understand(&answer(&asked, 2, &[])), Err(Outcome::Failed));
        assert_eq!(asked.understand(&answer(&asked, 0, &[])), Ok(Answer::default()));
        // In circles.
        let round = [
            resource(&[0xc0, 12], CNAME, 1, &labels("b.test")),
            resource(&labels("b.test"), CNAME, 1, &labels("www.a.test")),
        ];
        assert_eq!(asked.understand(&answer(&asked, 0, &round)), Ok(Answer::default()));
    }

    proptest! {
        #[test]
        fn no_bytes_break_and_what_is_written_is_bounded(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0..200_usize,
        ) {
            let asked = Question::of("www.a.test", 7);
            let _ = Question::read(&bytes);
            let _ = asked.understand(&bytes);
            // What begins well, too.
            let good = resource(&[0xc0, 12], A, 300, &ONE.octets());
            let mut message = answer(&asked, 0, &[good.clone(), good]);
            let at = at.min(message.len());
            message.splice(at.., bytes);
            if let Ok(found) = asked.understand(&message) {
                prop_assert!(found.addresses.len() <= MOST_ADDRESSES);
                prop_assert!(asked.answer(Outcome::Found, &found).len() <= MOST_BYTES);
            }
        }

        #[test]
        fn every_name_that_is_allowed_can_be_asked_for(name in "[a-z0-9_]{1,20}(\\.[a-z0-9-]{1,20}){0,5}") {
            let asked = Question::of(&name, 1);
            prop_assert_eq!(Question::read(&asked.write()), Some(asked));
        }
    }
}
