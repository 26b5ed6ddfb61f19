//! Where a multipart part wants to go: its `Content-Disposition`, read with the whole file name.
//!
//! Most readers keep the last component only; here the name is a path.

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    pub(super) name: Option<String>,
    pub(super) filename: Option<String>,
}

impl Disposition {
    /// Tolerant, as browsers' and clients' forms differ; what cannot be read is left out.
    pub(super) fn parse(header: &[u8]) -> Self {
        let text = String::from_utf8_lossy(header);
        let mut parsed = Self::default();
        let mut extended = None;
        let mut rest = match text.find(';') {
            Some(kind) => &text[kind + 1..],
            None => "",
        };
        while let Some((key, value, after)) = parameter(rest) {
            match key.as_str() {
                "name" => parsed.name = Some(value),
                "filename" => parsed.filename = Some(value),
                "filename*" => extended = decode_extended(&value),
                _ => {}
            }
            rest = after;
        }
        parsed.filename = extended.or(parsed.filename);
        parsed
    }
}

fn parameter(text: &str) -> Option<(String, String, &str)> {
    let text = text.trim_start_matches([';', ' ', '\t']);
    let (key, value) = text.split_once('=')?;
    let key = key.trim().to_ascii_lowercase();
    let value = value.trim_start();
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find(';').unwrap_or(value.len());
        return Some((key, value[..end].trim().to_owned(), &value[end..]));
    };
    let mut content = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((key, content, &quoted[at + 1..])),
            // A backslash before anything but these is one of a Windows path.
            '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => content.push(escaped),
                None => content.push('\\'),
            },
            character => content.push(character),
        }
    }
    None
}

/// `UTF-8''percent%20encoded`
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let utf8 = charset.eq_ignore_ascii_case("utf-8");
    let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8().ok()?;
    utf8.then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_names_are_whole_paths() {
        for (header, name, filename) in [
            (r#"form-data; name="file"; filename="/a/b c.txt""#, Some("file"), Some("/a/b c.txt")),
            (
                r#"form-data; name="file"; filename="ü/日本;=.txt""#,
                Some("file"),
                Some("ü/日本;=.txt"),
            ),
            (r#"form-data; filename="a\"b\\c\d"; name=file"#, Some("file"), Some(r#"a"b\c\d"#)),
            ("form-data; name=file; filename=plain.txt", Some("file"), Some("plain.txt")),
            (
                r#"form-data; name="file"; filename="x"; filename*=UTF-8''d%2F%C3%BC"#,
                Some("file"),
                Some("d/ü"),
            ),
            (r#"form-data; name="other""#, Some("other"), None),
            (r#"form-data; filename="unfinished"#, None, None),
            ("form-data", None, None),
        ] {
            let parsed = Disposition::parse(header.as_bytes());
            assert_eq!((parsed.name.as_deref(), parsed.filename.as_deref()), (name, filename));
        }
    }

    proptest! {
        #[test]
        fn any_header_can_be_read(header: Vec<u8>) {
            Disposition::parse(&header);
        }

        #[test]
        fn a_quoted_name_comes_out_as_it_went_in(name in "[^\\r\\n\0]{0,40}") {
            let quoted = name.replace('\\', r"\\").replace('"', "\\\"");
            let header = format!("form-data; name=\"file\"; filename=\"{quoted}\"");
            prop_assert_eq!(Disposition::parse(header.as_bytes()).filename, Some(name));
        }
    }
}
