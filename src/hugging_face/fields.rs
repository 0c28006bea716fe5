//! The keys of a `config.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// An object of the file.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// What stands before its keys in messages.
    within: String,
}

/// Why a file does not describe a model.
pub(super) type Reason = String;

impl<'a> Fields<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Fields<'a> {
        Fields {
            map,
            within: String::new(),
        }
    }

    /// Whether the file says anything about it, and be it `null`.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// What it says, unless that is `null`.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A value of a type; `None` if there is none.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Reason> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match T::deserialize(value) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(format!("{}{key}: {error}", self.within)),
        }
    }

    /// A value of a type, which must be there.
    pub fn need<T: DeserializeOwned>(&self, key: &str) -> Result<T, Reason> {
        let found = self.get(key)?;
        found.ok_or_else(|| format!("{}{key} is missing", self.within))
    }

    /// The object in it, if there is one that says something.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, Reason> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields {
                map,
                within: format!("{}{key}.", self.within),
            })),
            Some(other) => Err(format!("{}{key} = {other} is no object", self.within)),
        }
    }

    /// Refuses any value of a key but one; `null` is none.
    pub fn only(&self, key: &str, needed: &Value) -> Result<(), Reason> {
        match self.value(key) {
            Some(value)
                if value != needed && value.as_f64().is_none_or(|v| Some(v) != needed.as_f64()) =>
            {
                Err(format!(
                    "{}{key} = {value} is not supported, only {needed}",
                    self.within
                ))
            }
            _ => Ok(()),
        }
    }
}

/// An object in which no key stands twice: readers differ in which of the two they take.
pub(super) struct Unique<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unique<V>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("`{key}` stands there twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(map))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// The keys of an object, none of which stands there twice.
pub(super) fn unique(json: &[u8]) -> serde_json::Result<Map<String, Value>> {
    let map: Unique<Value> = serde_json::from_slice(json)?;
    Ok(map.0.into_iter().collect())
}

/// A number as JSON, as short as it can be read back.
pub(super) fn shortest(number: f32) -> Value {
    let text = number.to_string();
    text.parse::<f64>()
        .map_or(Value::Null, |number| json!(number))
}
