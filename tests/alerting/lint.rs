//! What a reviewer would ask of every rule.
