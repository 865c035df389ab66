//! What only the configuration and the peer it is meant for may see. Pure.

use std::fmt;

use serde::{Serialize, Serializer};

/// Stands for every secret, wherever one would be shown.
const SHOWN: &str = "<secret>";

/// A value that nothing shows by accident: `Debug`, `Display` and serde write `<secret>`. Whoever
/// needs the value says [`Secret::expose`], which is easy to search for.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, to be used and not to be shown.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Another form of the value, hidden as well.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Secret<U> {
        Secret(change(self.0))
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHOWN)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHOWN)
    }
}

impl<T> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SHOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_shows_a_secret() {
        let secret = Secret::new("hunter2".to_owned());
        let json = serde_json::to_string(&secret).unwrap();
        let yaml = serde_yaml::to_string(&secret).unwrap();
        for shown in [format!("{secret:?} {secret:#?}"), format!("{secret}"), json, yaml] {
            assert!(shown.contains("<secret>") && !shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(secret.map(|text| text.len()).expose(), &7);
    }
}
