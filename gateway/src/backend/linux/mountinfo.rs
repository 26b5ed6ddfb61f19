//! `/proc/self/mountinfo`, as far as it concerns cgroups and disks. Pure.

use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) kind: String,
    /// For a disk's file system its device.
    pub(super) source: PathBuf,
    /// Options of the file system, for cgroup v1 its controllers.
    pub(super) options: Vec<String>,
}

/// Lines of an unknown form are left out.
pub(super) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(line).collect()
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`
fn line(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    let mut fields = file_system.split(' ');
    let kind = fields.next()?.to_owned();
    let source = PathBuf::from(unescape(fields.next()?));
    let options = fields.next()?.split(',').map(str::to_owned).collect();
    Some(Mount { point: PathBuf::from(unescape(point)), kind, source, options })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match code {
            Some(code) => {
                plain.push(code.into());
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_blanks_is_understood() {
        let text = "36 35 0:31 / /sys/fs/a\\040b rw,noatime shared:1 master:2 - cgroup cgroup rw,cpu,cpuacct\nbroken\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].point, PathBuf::from("/sys/fs/a b"));
        assert_eq!(mounts[0].options, ["rw", "cpu", "cpuacct"]);
    }
}
