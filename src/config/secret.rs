//! How secrets are read, and described to editors.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::secret::Secret;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::new).map_err(|err| {
            // Serde quotes a value of the wrong type; a reader of YAML says where before.
            let message = err.to_string();
            let found = message.split_once("invalid type: ").map(|(_, found)| found);
            match found.and_then(|found| found.rsplit_once(", expected ")) {
                Some((_, expected)) => {
                    D::Error::custom(format!("invalid type: a secret, expected {expected}"))
                }
                None => err,
            }
        })
    }
}

impl<T: JsonSchema> JsonSchema for Secret<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
