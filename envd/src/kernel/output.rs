//! A long output of a kernel, passed on while it comes: `{"name": "stdout", "text": "…"}` in pieces
//! becomes parts of the text, still escaped, of which none ends within a character.

use super::items::Output;

/// What stands before the text has to fit in this (bytes).
const MAX_HEAD: usize = 256;

#[derive(Default)]
pub(super) struct LongOutput {
    /// What has come and cannot be passed on yet.
    kept: Vec<u8>,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Text(Output),
    Over,
}

/// It is not written as any kernel writes it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("output that is no JSON, or has its text before its name")]
pub(super) struct Malformed;

impl LongOutput {
    /// Takes the next piece; hands parts of the text to `pass`. What follows on an error is passed
    /// over.
    pub(super) fn take(
        &mut self,
        piece: &[u8],
        pass: impl FnMut(Output, &[u8]),
    ) -> Result<(), Malformed> {
        if let State::Over = self.state {
            return Ok(());
        }
        self.kept.extend_from_slice(piece);
        let passed = self.pass_on(pass);
        if passed.is_err() {
            self.end();
        }
        passed
    }

    fn end(&mut self) {
        self.kept = Vec::new();
        self.state = State::Over;
    }

    fn pass_on(&mut self, mut pass: impl FnMut(Output, &[u8])) -> Result<(), Malformed> {
        if let State::Head = self.state {
            match head(&self.kept) {
                Some((output, length)) => {
                    self.kept.drain(..length);
                    self.state = State::Text(output);
                }
                None if self.kept.len() > MAX_HEAD => return Err(Malformed),
                None => return Ok(()),
            }
        }
        if let State::Text(output) = self.state {
            let (whole, over) = whole(&self.kept)?;
            if whole > 0 {
                pass(output, &self.kept[..whole]);
            }
            self.kept.drain(..whole);
            if over {
                self.end();
            }
        }
        Ok(())
    }
}

/// The name, and how long everything before the text is.
fn head(bytes: &[u8]) -> Option<(Output, usize)> {
    let mut rest = bytes;
    let mut token = |expect: &[u8]| {
        rest = rest.trim_ascii_start();
        rest = rest.strip_prefix(expect)?;
        Some(rest)
    };
    token(b"{")?;
    token(b"\"name\"")?;
    token(b":")?;
    let after = token(b"\"")?;
    let name = &after[..after.iter().position(|byte| *byte == b'"')?];
    token(name)?;
    token(b"\"")?;
    token(b",")?;
    token(b"\"text\"")?;
    token(b":")?;
    let left = token(b"\"")?.len();
    Some((Output::named(std::str::from_utf8(name).ok()?), bytes.len() - left))
}

/// How many bytes are whole characters of the text, and whether the text ends there.
fn whole(bytes: &[u8]) -> Result<(usize, bool), Malformed> {
    let mut at = 0;
    let over = loop {
        match bytes[at..] {
            [] => break false,
            [b'"', ..] => break true,
            [b'\\', ..] => match escape(&bytes[at..])? {
                Some(length) => at += length,
                None => break false,
            },
            [0..0x20, ..] => return Err(Malformed),
            _ => at += 1,
        }
    };
    match std::str::from_utf8(&bytes[..at]) {
        Ok(_) => Ok((at, over)),
        Err(error) if error.error_len().is_none() && !over => Ok((error.valid_up_to(), false)),
        Err(_) => Err(Malformed),
    }
}

/// The length of the escape that `bytes` begins with, both halves of a pair together; `None` when
/// it is not all there.
fn escape(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match bytes.get(1) {
        None => Ok(None),
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(Some(2)),
        Some(b'u') => match (unit(bytes)?, unit(bytes.get(6..).unwrap_or_default())) {
            (None, _) => Ok(None),
            (Some(0xd800..0xdc00), Ok(Some(0xdc00..0xe000))) => Ok(Some(12)),
            // Could be the beginning of its other half, or it has none.
            (Some(0xd800..0xdc00), Ok(None)) if bytes.len() < 12 => Ok(None),
            (Some(_), _) => Ok(Some(6)),
        },
        Some(_) => Err(Malformed),
    }
}

/// The code unit of an escape like `\u0020`.
fn unit(bytes: &[u8]) -> Result<Option<u16>, Malformed> {
    let short = b"\\u".starts_with(&bytes[..bytes.len().min(2)]);
    match bytes.get(..6) {
        None if short => Ok(None),
        Some([b'\\', b'u', digits @ ..]) if digits.iter().all(u8::is_ascii_hexdigit) => {
            let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
            u16::from_str_radix(digits, 16).map(Some).map_err(|_| Malformed)
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out of `content` in pieces of that size; every part has to be JSON by itself.
    fn parts(content: &[u8], size: usize) -> Result<(Vec<Output>, Vec<String>), Malformed> {
        let (mut output, mut outputs, mut parts) = (LongOutput::default(), Vec::new(), Vec::new());
        for piece in content.chunks(size) {
            output.take(piece, |name, escaped| {
                let json = [b"\"", escaped, b"\""].concat();
                parts.push(serde_json::from_slice(&json).expect("a part is whole"));
                outputs.push(name);
            })?;
        }
        outputs.dedup();
        Ok((outputs, parts))
    }

    #[test]
    fn no_part_ends_within_a_character_or_an_escape() {
        let content = r#" { "name" : "stderr", "text" : "a\"\\é😀\ud83d\ude00\u00e9\n" } "#;
        for size in 1..content.len() {
            let (outputs, parts) = parts(content.as_bytes(), size).unwrap();
            assert_eq!(parts.concat(), "a\"\\é😀😀é\n", "in pieces of {size}");
            assert_eq!(outputs, [Output::Stderr]);
        }
    }

    #[test]
    fn what_no_kernel_writes_is_malformed() {
        let after = "x".repeat(MAX_HEAD);
        for content in [
            format!(r#"{{"text": "a", "name": "stdout"}}{after}"#),
            format!("[{after}"),
            "{\"name\":\"stdout\",\"text\":\"a\nb\"}".to_owned(),
            r#"{"name":"stdout","text":"\x"}"#.to_owned(),
            r#"{"name":"stdout","text":"\u00zz"}"#.to_owned(),
        ] {
            assert_eq!(parts(content.as_bytes(), 7), Err(Malformed), "{content}");
        }
        assert_eq!(parts(b"{\"name\":\"stdout\",\"text\":\"\xff\"}", 7), Err(Malformed));
    }

    #[test]
    fn nothing_is_kept_or_told_again_of_what_is_malformed() {
        for begin in [r#"{"name":""#, r#"{"name":"stdout","text":"\x"#] {
            let mut output = LongOutput::default();
            let pass = |_, _: &[u8]| panic!("nothing of it can be read");
            let begin = [begin.as_bytes(), &[b'x'; MAX_HEAD]].concat();
            assert_eq!(output.take(&begin, pass), Err(Malformed));
            for _ in 0..3 {
                assert_eq!(output.take(&[b'x'; 1000], pass), Ok(()));
                assert_eq!(output.kept.capacity(), 0);
            }
        }
    }

    proptest! {
        #[test]
        fn text_comes_out_as_it_went_in(text in ".{0,60}", size in 1_usize..20, ascii: bool) {
            let mut content = serde_json::json!({"name": "stdout", "text": text}).to_string();
            if ascii {
                let mut units = [0; 2];
                content = content.chars().map(|c| if c.is_ascii() { c.to_string() } else {
                    c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }).collect();
            }
            let (_, parts) = parts(content.as_bytes(), size).unwrap();
            prop_assert_eq!(parts.concat(), text);
        }

        #[test]
        fn nothing_breaks_it(rest: Vec<u8>, size in 1_usize..20) {
            let _ = parts(&[&b"{\"name\":\"x\",\"text\":\""[..], &rest].concat(), size);
            let _ = parts(&rest, size);
        }
    }
}
