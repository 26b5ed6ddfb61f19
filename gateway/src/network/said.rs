//! Something that was said, and what it means: shown again as it was said.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

#[derive(Clone, Debug)]
pub(super) struct Said<T> {
    text: String,
    pub(super) means: T,
}

impl<T: FromStr<Err = ()>> Said<T> {
    pub(super) fn new(text: &str) -> Result<Self, ()> {
        Ok(Self { means: text.parse()?, text: text.to_owned() })
    }
}

impl<T> Said<T> {
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// Whatever the words.
impl<T: PartialEq> PartialEq for Said<T> {
    fn eq(&self, other: &Self) -> bool {
        self.means == other.means
    }
}

impl<T: Eq> Eq for Said<T> {}

impl<T> Serialize for Said<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl<'de, T: FromStr<Err = ()>> Deserialize<'de> for Said<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|()| D::Error::custom(format!("{text:?} means nothing")))
    }
}
