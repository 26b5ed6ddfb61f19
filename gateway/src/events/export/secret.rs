//! Secrets of exporters: where they are found, never what they are.

use std::{env, fmt, path::PathBuf};

use super::Failure;

/// Longer is none (bytes).
const LONGEST: usize = 8192;

/// Where a secret is; looked up each time, so that a new one needs no restart.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Place);

#[derive(Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Variable(String),
    /// Known to be none.
    Here(String),
}

impl Secret {
    /// That of `NAME_file` or `NAME_env` of the settings, of which there has to be one.
    pub(crate) fn of(
        name: &str,
        file: Option<PathBuf>,
        variable: Option<String>,
    ) -> Result<Self, String> {
        match (file, variable) {
            (Some(file), None) if file.is_absolute() => Ok(Self(Place::File(file))),
            (Some(_), None) => Err(format!("{name}_file is an absolute path")),
            (None, Some(variable)) if !variable.is_empty() => Ok(Self(Place::Variable(variable))),
            _ => Err(format!(
                "give either {name}_file, a file that has it, or {name}_env, the name of a \
                 variable of the gateway's environment"
            )),
        }
    }

    /// For what has no secret in it.
    pub(crate) fn plain(text: String) -> Self {
        Self(Place::Here(text))
    }

    pub(crate) async fn read(&self) -> Result<String, Failure> {
        let text = match &self.0 {
            Place::Here(text) => return Ok(text.clone()),
            Place::Variable(name) => {
                env::var(name).map_err(|_| Failure::later(format!("{name} is not set")))?
            }
            Place::File(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| Failure::later(format!("{}: {error}", path.display())))?,
        };
        match text.trim() {
            "" => Err(Failure::later(format!("{self:?} is empty"))),
            text if text.len() > LONGEST => Err(Failure::later(format!("{self:?} is too long"))),
            text => Ok(text.to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Variable(name) => f.write_str(name),
            Place::Here(_) => f.write_str("the settings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_read_anew_and_only_its_place_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let secret = Secret::of("token", Some(path.clone()), None).unwrap();
        let missing = format!("{:?}", secret.read().await.unwrap_err());
        assert!(missing.contains("token"), "{missing}");
        for text in ["one\n", " two "] {
            fs::write(&path, text).unwrap();
            assert_eq!(secret.read().await.unwrap(), text.trim());
        }
        fs::write(&path, "\n").unwrap();
        assert!(secret.read().await.is_err());
        assert_eq!(format!("{secret:?}"), path.display().to_string());
        assert_eq!(format!("{:?}", Secret::plain("host=x".into())), "the settings");
        for (file, variable) in [(None, None), (Some("t"), None), (Some("/t"), Some("T"))] {
            let variable = variable.map(str::to_owned);
            assert!(Secret::of("token", file.map(PathBuf::from), variable).is_err());
        }
    }
}
