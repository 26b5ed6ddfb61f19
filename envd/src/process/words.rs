//! A command as people write it, for reports.

use crate::{connect::proto::process::ProcessConfig, wire};

/// What SDKs run a line in.
const SHELL: &str = "/bin/bash";

/// The line, where a shell was started to run one; else the program and its arguments as a shell
/// would take them.
pub(super) fn command(config: &ProcessConfig) -> String {
    if let (SHELL, [login, run, line]) = (config.cmd.as_str(), &config.args[..])
        && login == "-l"
        && run == "-c"
    {
        return wire::text(line);
    }
    let mut line = String::new();
    for word in [&config.cmd].into_iter().chain(&config.args) {
        if line.len() >= wire::MAX_TEXT {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        quote(&word[..word.floor_char_boundary(wire::MAX_TEXT)], &mut line);
    }
    line.truncate(line.floor_char_boundary(wire::MAX_TEXT));
    line
}

fn quote(word: &str, line: &mut String) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        line.push_str(word);
        return;
    }
    line.push('\'');
    line.push_str(&word.replace('\'', "'\\''"));
    line.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cmd: &str, args: &[&str]) -> String {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        command(&ProcessConfig { cmd: cmd.into(), args, ..ProcessConfig::default() })
    }

    #[test]
    fn a_command_is_told_as_it_is_written() {
        assert_eq!(
            check("/bin/bash", &["-l", "-c", "npm test && echo 'x'"]),
            "npm test && echo 'x'"
        );
        assert_eq!(check("/bin/bash", &["-i", "-l"]), "/bin/bash -i -l");
        assert_eq!(check("echo", &["a b", "it's", "", "ü"]), r"echo 'a b' 'it'\''s' '' 'ü'");
    }

    #[test]
    fn a_long_one_is_cut() {
        let long = "ü".repeat(10_000);
        assert_eq!(check("/bin/bash", &["-l", "-c", &long]).len(), wire::MAX_TEXT);
        assert!(check("x", &[&long, &long]).len() <= wire::MAX_TEXT);
        let many = vec!["'"; 100_000];
        assert!(check("x", &many).len() <= wire::MAX_TEXT);
    }
}
