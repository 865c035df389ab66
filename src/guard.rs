//! Who may probe what. Pure: judges addresses that others resolved.

use std::net::SocketAddr;

use crate::address::Host;

/// Why a target was refused: the rule's text, for the log and the counter, never for the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The rule as configured, or the name of a built-in one.
    pub rule: std::sync::Arc<str>,
}

/// The access rules in force.
#[derive(Clone, Debug, Default)]
pub struct Access {}

impl Access {
    /// Judges one resolved address of a target, for a module.
    ///
    /// # Errors
    /// The rule that denies it.
    pub fn judge(&self, _module: &str, _host: &Host, _address: SocketAddr) -> Result<(), Denial> {
        Ok(())
    }
}
