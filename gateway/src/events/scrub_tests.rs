use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

static OURS: LazyLock<Scrub> = LazyLock::new(Scrub::default);

fn cleaned(text: &str) -> String {
    let mut text = text.to_owned();
    OURS.text(&mut text, usize::MAX);
    text
}

fn rules(patterns: &[(&str, &str)], without: &[&str]) -> Rules {
    let patterns = patterns.iter().map(|(name, text)| ((*name).into(), (*text).into()));
    let without = without.iter().map(|name| (*name).to_owned());
    Rules { patterns: patterns.collect(), without: without.collect(), ..Rules::default() }
}

const JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";

/// A text, the pattern that finds something in it, and what is left.
const SECRETS: [(&str, &str, &str); 24] = [
    ("key e2b_0123456789abcdef0123 end", "e2b-key", "key [redacted:e2b-key] end"),
    ("sk-proj-abcDEF0123456789xyz", "openai-key", "[redacted:openai-key]"),
    ("sk_live_0123456789abcdef", "stripe-key", "[redacted:stripe-key]"),
    ("id AKIAIOSFODNN7EXAMPLE.", "aws-key", "id [redacted:aws-key]."),
    ("ghp_0123456789abcdefghij0123", "github-token", "[redacted:github-token]"),
    ("github_pat_11ABCDEFG0123456789_xyz", "github-token", "[redacted:github-token]"),
    ("glpat-0123456789abcdefghij", "gitlab-token", "[redacted:gitlab-token]"),
    ("xoxb-123456789012-abcdef", "slack-token", "[redacted:slack-token]"),
    ("AIzaSyA0123456789abcdefghijklmnopqrstuv", "google-key", "[redacted:google-key]"),
    ("hf_0123456789abcdefghij", "registry-token", "[redacted:registry-token]"),
    (
        "curl -H 'Authorization: Bearer abcdefgh12345678'",
        "authorization",
        "curl -H 'Authorization: Bearer [redacted:authorization]'",
    ),
    (
        "authorization: Basic dXNlcjpwYXNz\r\n",
        "authorization",
        "authorization: Basic [redacted:authorization]\r\n",
    ),
    ("sent bearer 0123456789abcdef.", "bearer", "sent bearer [redacted:bearer]"),
    ("postgres://me:hunter2@db/x", "url-password", "postgres://me:[redacted:url-password]@db/x"),
    (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nrest",
        "private-key",
        "[redacted:private-key]\nrest",
    ),
    ("-----BEGIN PRIVATE KEY-----\nMIIEvQ cut off here", "private-key", "[redacted:private-key]"),
    ("password=hunter2&user=me", "assignment", "password=[redacted:assignment]&user=me"),
    ("DB_PASSWORD: 'correct horse' # x", "assignment", "DB_PASSWORD: '[redacted:assignment]' # x"),
    (r#"{"password":"a b","n":1}"#, "assignment", r#"{"password":"[redacted:assignment]","n":1}"#),
    (r#"{\"token\": \"abc\"}"#, "assignment", r#"{\"token\": \"[redacted:assignment]\"}"#),
    (
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7",
        "assignment",
        "AWS_SECRET_ACCESS_KEY=[redacted:assignment]",
    ),
    ("my-secret = s3cr3t\n", "assignment", "my-secret = [redacted:assignment]\n"),
    (
        "login --password hunter2 --user me",
        "option",
        "login --password [redacted:option] --user me",
    ),
    ("login --token 'a b' x", "option", "login --token '[redacted:option]' x"),
];

#[test]
fn what_looks_like_a_secret_is_replaced_by_the_name_of_its_pattern() {
    for (text, pattern, left) in SECRETS {
        let scrub = Scrub::default();
        let mut scrubbed = text.to_owned();
        scrub.text(&mut scrubbed, usize::MAX);
        assert_eq!(scrubbed, left);
        let hits: Vec<_> = scrub.hits().filter(|(_, hits)| *hits > 0).collect();
        assert_eq!(hits, [(pattern, 1)], "{text}");
        let secret = text.len() + BEGIN.len() + pattern.len() + 1 - left.len();
        assert_eq!(scrub.bytes(), secret as u64);
        // Whoever scrubs it again finds nothing.
        scrub.text(&mut scrubbed, usize::MAX);
        assert_eq!((scrubbed.as_str(), scrub.bytes()), (left, secret as u64));
    }
    assert_eq!(cleaned("a\0b"), "a\u{fffd}b");
    assert_eq!(cleaned(JWT), "[redacted:jwt]");
    assert_eq!(cleaned(&format!("t={JWT}.")), "t=[redacted:jwt].");
}

#[test]
fn what_is_none_stays() {
    for text in [
        "npm test",
        "PWD=/home/user",
        "max_tokens=4096",
        "12 tests passed",
        "the password is asked for",
        "task-sk-1",
        "https://example.org:8080/a@b",
        "git@github.com:me/repo",
        "a basic understanding of authorization",
        "export PATH=/usr/bin",
        "token: ",
        "[]{}\u{1b}[31m ü",
    ] {
        assert_eq!(cleaned(text), text);
    }
}

#[test]
fn several_in_a_text_are_each_replaced_and_none_twice() {
    let text =
        format!("a password=x&token=y b ghp_0123456789abcdefghij Authorization: Bearer {JWT}");
    assert_eq!(
        cleaned(&text),
        "a password=[redacted:assignment]&token=[redacted:assignment] b [redacted:github-token] \
         Authorization: Bearer [redacted:authorization]"
    );
}

#[test]
fn of_a_secret_that_the_cut_goes_through_nothing_is_left() {
    let scrub = Scrub::default();
    for (secret, _, _) in SECRETS {
        let secret = secret.trim_end();
        for cut in 1..secret.len() {
            // As envd sends it: some more than an event may have.
            let mut text = format!("{} {secret} {}", "x".repeat(MOST - 1 - cut), "y".repeat(400));
            text.truncate(text.floor_char_boundary(MOST + envd::wire::MARGIN));
            scrub.text(&mut text, MOST);
            let whole = cleaned(&format!(" {secret} "));
            let kept = text.trim_start_matches('x');
            assert!(whole.starts_with(kept), "{cut}: {kept:?} of {whole:?}");
        }
    }
}

#[test]
fn an_event_is_scrubbed_and_cut_wherever_it_has_a_text() {
    let long = || Some("é".repeat(MOST));
    let rules = Rules { output: 101, ..Rules::default() };
    let scrub = Scrub::new(&rules).unwrap();
    let mut what = What::ExecCompleted {
        command: Some("x --token abc".into()),
        exit_code: 0,
        duration_ms: 1,
        stdout: long(),
        stderr: Some("password=x".into()),
        pid: None,
    };
    scrub.clean(&mut what);
    let What::ExecCompleted { command, stdout, stderr, .. } = what else { panic!() };
    assert_eq!(command.unwrap(), "x --token [redacted:option]");
    assert_eq!(stdout.unwrap(), "é".repeat(50));
    assert_eq!(stderr.unwrap(), "password=[redacted:assignment]");

    let args = json!({"password": "x", "n": [1, "sk-0123456789abcdef0123"], "a": {"api_key": "k"}});
    let mut what = What::ToolInvoked { tool_name: "t".into(), tool_args: args, agent_id: None };
    scrub.clean(&mut what);
    let What::ToolInvoked { tool_args, .. } = what else { panic!() };
    assert_eq!(
        tool_args,
        json!({
            "password": "[redacted:assignment]",
            "n": [1, "[redacted:openai-key]"],
            "a": {"api_key": "[redacted:assignment]"},
        })
    );
}

#[test]
fn names_are_looked_at_and_all_that_is_under_one_that_says_secret_is_one() {
    let scrub = Scrub::new(&rules(&[], &[])).unwrap();
    let redacted = "[redacted:assignment]";
    let mut value = json!({
        "sk-0123456789abcdef0123": {"sk-0123456789abcdef0123": 1},
        "password": ["hunter2", 7, null],
        "api_key": {"v": "x", "on": true},
        "max_tokens": 4096,
    });
    let wanted = json!({
        "[redacted:openai-key]": {"[redacted:openai-key]": 1},
        "password": [redacted, redacted, null],
        "api_key": {"v": redacted, "on": true},
        "max_tokens": 4096,
    });
    scrub.value(&mut value);
    assert_eq!(value, wanted);
    scrub.value(&mut value);
    assert_eq!(value, wanted);
}

#[test]
fn patterns_are_added_replaced_and_left_out() {
    let wanted = rules(&[("badge", r"ACME-(\d{8})"), ("e2b-key", "never")], &["assignment"]);
    let scrub = Scrub::new(&wanted).unwrap();
    let mut text = "ACME-12345678 password=x e2b_0123456789abcdef".to_owned();
    scrub.text(&mut text, usize::MAX);
    assert_eq!(text, "ACME-[redacted:badge] password=x e2b_0123456789abcdef");
    for (wrong, why) in [
        (rules(&[("a", "(")], &[]), "pattern a: "),
        (rules(&[("a", "x*")], &[]), "pattern a finds something in an empty text"),
        (rules(&[("A b", "x")], &[]), "pattern \"A b\""),
        (rules(&[("a", r"(\w{1000}){1000}")], &[]), "pattern a: "),
        (rules(&[], &["nothing"]), "there is no pattern \"nothing\""),
        (Rules { output: MOST + 1, ..Rules::default() }, "output_bytes: "),
    ] {
        let error = Scrub::new(&wrong).err().unwrap().to_string();
        assert!(error.starts_with(why), "{error}");
    }
}

#[test]
fn a_hostile_text_takes_little_time() {
    let began = std::time::Instant::now();
    for piece in ["password=", "-----BEGIN PRIVATE KEY-----", "a://:", "eyJ", "\"token\":\"", "=>"]
    {
        let mut text = piece.repeat(64 * 1024 / piece.len());
        OURS.text(&mut text, usize::MAX);
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_the_text_what_is_left_has_no_secret_and_the_cut_changes_nothing_before_it(
        pieces in prop::collection::vec(
            prop_oneof![
                (0..SECRETS.len()).prop_map(|at| SECRETS[at].0.to_owned()),
                "\\PC{0,20}",
                Just("\"".to_owned()),
            ],
            0..8,
        ),
        most in 0..200_usize,
    ) {
        let text = pieces.concat();
        let mut cut = text.clone();
        OURS.text(&mut cut, most);
        let whole = cleaned(&text);
        prop_assert!(whole.starts_with(&cut), "{:?} of {:?}", cut, whole);
        prop_assert!(OURS.found(&whole).is_empty(), "{:?}", whole);
    }
}
