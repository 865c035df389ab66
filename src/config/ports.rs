//! `ports:` of a monitor: one, a list, or a mapping from names; always in the order of the file.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::scalar::{PortRange, Text, decimal};

/// Several ports.
#[derive(Clone, Debug)]
pub(super) enum PortsKeys {
    List(Vec<PortRange>),
    Named(Vec<(String, PortRange)>),
}

impl<'de> Deserialize<'de> for PortsKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = PortsKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, `[22, 3306]`, or a mapping, `ssh: 22`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PortsKeys, E> {
                let range = PortRange::try_from(Text(text.to_owned())).map_err(E::custom)?;
                Ok(PortsKeys::List(vec![range]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<PortsKeys, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(PortsKeys::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PortsKeys, A::Error> {
                let mut named = Vec::new();
                while let Some(PortName(name)) = map.next_key()? {
                    named.push((name, map.next_value()?));
                }
                Ok(PortsKeys::Named(named))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct PortName(String);

impl TryFrom<String> for PortName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        if decimal(&name).is_some() || name.is_empty() {
            return Err("the name of a port must not be a number: write `ssh: 22`");
        }
        Ok(Self(name))
    }
}

impl Serialize for PortsKeys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(list) => list.serialize(serializer),
            Self::Named(named) => {
                let mut map = serializer.serialize_map(Some(named.len()))?;
                for (name, range) in named {
                    map.serialize_entry(name, range)?;
                }
                map.end()
            }
        }
    }
}

impl JsonSchema for PortsKeys {
    fn schema_name() -> Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let range = generator.subschema_for::<PortRange>();
        json_schema!({
            "anyOf": [
                range,
                {"type": "array", "items": range, "minItems": 1},
                {"type": "object", "additionalProperties": range, "minProperties": 1},
            ],
        })
    }
}
