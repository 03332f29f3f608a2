//! A policy as a config file has it: `policy_function` and `policy_kwargs`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use tyndall_types::protocol::ScalingPolicy;

/// Before a policy's name.
const MODULE: &str = "tyndall.policies:";

#[derive(Serialize, Deserialize)]
struct Written {
    policy_function: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    policy_kwargs: Map<String, Value>,
}

/// As JSON a policy is one map, in which `name` is the last word of the function.
pub(super) fn serialize<S: Serializer>(
    policy: &Option<ScalingPolicy>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let Some(policy) = policy else { return serializer.serialize_none() };
    let json = serde_json::to_value(policy).map_err(serde::ser::Error::custom)?;
    let Value::Object(mut policy_kwargs) = json else {
        return Err(serde::ser::Error::custom("a policy is a map"));
    };
    let name = policy_kwargs.remove("name").unwrap_or_default();
    let policy_function = format!("{MODULE}{}", name.as_str().unwrap_or_default());
    Written { policy_function, policy_kwargs }.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ScalingPolicy>, D::Error> {
    let Some(written) = Option::<Written>::deserialize(deserializer)? else { return Ok(None) };
    let name = written.policy_function.strip_prefix(MODULE).ok_or_else(|| {
        serde::de::Error::custom(format!("{} is no policy of Tyndall", written.policy_function))
    })?;
    let mut policy = written.policy_kwargs;
    policy.insert("name".to_owned(), name.into());
    serde_json::from_value(policy.into()).map(Some).map_err(serde::de::Error::custom)
}
