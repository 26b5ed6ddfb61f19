//! What is logged, how, and where to: the settings whose names begin with `log`, and
//! `enable-file-log`, as OpenSandbox's controller has it.

use std::{path::PathBuf, time::Duration};

use tracing::Level;

use super::{Error, Given};

/// Of this file, in the order of [`LogFlags::values`].
pub(super) const NAMES: [&str; 8] = [
    "log-level",
    "log-format",
    "enable-file-log",
    "log-file-path",
    "log-max-size",
    "log-max-backups",
    "log-max-age",
    "log-compress",
];

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    pub level: Level,
    pub format: LogFormat,
    /// Beside standard error.
    pub file: Option<LogFile>,
}

/// Where the log is kept, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    pub path: PathBuf,
    /// Bytes, beyond which it is put aside; `None` is never.
    pub max_size: Option<u64>,
    /// Of those put aside; `None` is all.
    pub max_backups: Option<usize>,
    /// From when one was put aside; `None` is for good.
    pub max_age: Option<Duration>,
    pub compress: bool,
}

#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct LogFlags {
    /// error, warn, info, debug or trace; taken up anew on SIGHUP [env: COPPICE_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [env: COPPICE_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Log to a file as well as to standard error [env: COPPICE_ENABLE_FILE_LOG] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_file_log: Option<String>,
    /// That file; opened anew on SIGHUP [env: COPPICE_LOG_FILE_PATH] [default: /var/log/coppice/coppice.log]
    #[arg(long, value_name = "FILE")]
    log_file_path: Option<String>,
    /// How large it may be, in MiB, before it is put aside; 0 is any size [env: COPPICE_LOG_MAX_SIZE] [default: 100]
    #[arg(long, value_name = "MIB")]
    log_max_size: Option<String>,
    /// How many are kept that were put aside; 0 is all [env: COPPICE_LOG_MAX_BACKUPS] [default: 10]
    #[arg(long, value_name = "N")]
    log_max_backups: Option<String>,
    /// For how many days; 0 is for good [env: COPPICE_LOG_MAX_AGE] [default: 30]
    #[arg(long, value_name = "DAYS")]
    log_max_age: Option<String>,
    /// Compress them (gzip) [env: COPPICE_LOG_COMPRESS] [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    log_compress: Option<String>,
}

impl LogFlags {
    pub(super) fn values(self) -> [Option<String>; NAMES.len()] {
        [
            self.log_level,
            self.log_format,
            self.enable_file_log,
            self.log_file_path,
            self.log_max_size,
            self.log_max_backups,
            self.log_max_age,
            self.log_compress,
        ]
    }
}

impl Given {
    pub(super) fn logging(&mut self) -> Result<Logging, Error> {
        let level = self.take("log-level", "info", |text| {
            level_named(text).ok_or_else(|| "error, warn, info, debug or trace".to_owned())
        })?;
        let format = self.take("log-format", "text", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("text or json".to_owned()),
        })?;
        let wanted = self.take("enable-file-log", "false", yes_or_no)?;
        // Looked at whether it is wanted or not: what makes no sense is to be said at once.
        let file = self.log_file()?;
        Ok(Logging { level, format, file: wanted.then_some(file) })
    }

    fn log_file(&mut self) -> Result<LogFile, Error> {
        Ok(LogFile {
            path: self.take("log-file-path", "/var/log/coppice/coppice.log", |text| {
                let path = PathBuf::from(text);
                // What is put aside has the name of the file with more behind it.
                let named = path.file_name().is_some() && !text.ends_with('/');
                if named { Ok(path) } else { Err("the path of a file".to_owned()) }
            })?,
            max_size: match self.number("log-max-size", "100", 0, 1 << 20)? as u64 {
                0 => None,
                mib => Some(mib << 20),
            },
            max_backups: match self.number("log-max-backups", "10", 0, 10_000)? {
                0 => None,
                kept => Some(kept),
            },
            max_age: match self.number("log-max-age", "30", 0, 36_500)? {
                0 => None,
                days => Some(DAY * u32::try_from(days).unwrap_or(u32::MAX)),
            },
            compress: self.take("log-compress", "true", yes_or_no)?,
        })
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "true or false".to_owned())
}

/// As settings and calls name it.
pub fn level_named(text: &str) -> Option<Level> {
    Some(match text {
        "error" => Level::ERROR,
        "warn" => Level::WARN,
        "info" => Level::INFO,
        "debug" => Level::DEBUG,
        "trace" => Level::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{super::tests::config, *};

    #[test]
    fn the_six_options_have_the_names_and_values_of_opensandboxs_controller() {
        let told = config(&[], &[]).unwrap().log;
        assert_eq!((told.level, told.format, told.file), (Level::INFO, LogFormat::Text, None));
        let on = config(&[("enable-file-log", "true")], &[]).unwrap().log.file.unwrap();
        let controllers = LogFile {
            path: "/var/log/coppice/coppice.log".into(),
            max_size: Some(100 << 20),
            max_backups: Some(10),
            max_age: Some(30 * DAY),
            compress: true,
        };
        assert_eq!(on, controllers);
        let file = tempfile::NamedTempFile::new().unwrap();
        let toml = "enable-file-log = true\nlog-file-path = \"/x/y.log\"\nlog-max-size = 0\n\
                    log-max-backups = 0\nlog-max-age = 0\nlog-compress = false\nlog-level = \"trace\"\n";
        fs::write(file.path(), toml).unwrap();
        let path = file.path().to_str().unwrap();
        let all = config(&[("config", path)], &[("COPPICE_LOG_MAX_SIZE", "7")]).unwrap().log;
        assert_eq!(all.level, Level::TRACE);
        let kept = all.file.unwrap();
        assert_eq!((&*kept.path, kept.max_size), (Path::new("/x/y.log"), Some(7 << 20)));
        assert_eq!((kept.max_backups, kept.max_age, kept.compress), (None, None, false));
    }

    #[test]
    fn what_makes_no_sense_is_refused_whether_there_is_to_be_a_file_or_not() {
        for (flag, value, expected) in [
            ("enable-file-log", "1", "--enable-file-log: \"1\" is not true or false"),
            ("log-file-path", "/var/log/", "the path of a file"),
            ("log-file-path", "..", "the path of a file"),
            ("log-max-size", "100M", "a whole number from 0"),
            ("log-max-backups", "-1", "a whole number from 0"),
            ("log-max-age", "30d", "a whole number from 0"),
            ("log-compress", "gzip", "true or false"),
        ] {
            let error = config(&[(flag, value)], &[]).err().expect(value).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
