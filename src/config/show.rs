//! The configuration in force as text.

use crate::config::Config;

pub(super) fn config(_config: &Config) -> String {
    String::new()
}
