//! How events become text and come back, also those that an older program wrote.
//!
//! In: an [`Event`], or the version and text of a stored one. Out: the stored form, or the event, or why it cannot be
//! read. A payload whose meaning changes gets a new version and an upcaster here; what only grew needs neither.

use chargehand_actors::event::{Event, PAYLOAD_VERSION};
use serde_json::Value;

/// Turns a payload of one version into the next.
type Upcaster = fn(Value) -> Result<Value, String>;

/// The first turns version 1 into 2, and so on. None yet: version 1 is the newest.
const UPCASTERS: &[Upcaster] = &[];

const _: () = assert!(UPCASTERS.len() + 1 == PAYLOAD_VERSION as usize);

/// An event as it is stored.
pub(super) struct Stored {
    /// The `type` word of the payload, for people who look into the database.
    pub(super) kind: String,
    /// JSON.
    pub(super) payload: String,
}

/// The stored form of an event, always of the newest version.
pub(super) fn encode(event: &Event) -> Result<Stored, serde_json::Error> {
    let value = serde_json::to_value(event)?;
    Ok(Stored {
        kind: value["type"].as_str().unwrap_or_default().to_owned(),
        payload: value.to_string(),
    })
}

/// Reads a stored event.
pub(super) fn decode(version: i64, payload: &str) -> Result<Event, String> {
    decode_with(UPCASTERS, version, payload)
}

fn decode_with(upcasters: &[Upcaster], version: i64, payload: &str) -> Result<Event, String> {
    let missing = usize::try_from(version)
        .ok()
        .and_then(|v| upcasters.get(v.checked_sub(1)?..))
        .ok_or_else(|| format!("its version is {version}, which this program does not know"))?;
    let stored: Value = serde_json::from_str(payload).map_err(|e| e.to_string())?;
    let newest = missing
        .iter()
        .try_fold(stored, |value, upcast| upcast(value))?;
    serde_json::from_value(newest).map_err(|e| e.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn renamed(mut value: Value) -> Result<Value, String> {
        let old = value.as_object_mut().and_then(|v| v.remove("text"));
        value["message"] = old.ok_or("no text")?;
        Ok(value)
    }

    fn shouted(mut value: Value) -> Result<Value, String> {
        let text = value["message"].as_str().ok_or("no message")?;
        value["message"] = Value::String(text.to_uppercase());
        Ok(value)
    }

    #[test]
    fn older_payloads_pass_every_upcaster_above_their_version() {
        let chain: &[Upcaster] = &[renamed, shouted];
        let read = |version, payload| decode_with(chain, version, payload);
        let remark = |message: &str| {
            Ok(Event::Remark {
                message: message.to_owned(),
            })
        };
        assert_eq!(read(1, r#"{"type":"remark","text":"a"}"#), remark("A"));
        assert_eq!(read(2, r#"{"type":"remark","message":"a"}"#), remark("A"));
        assert_eq!(read(3, r#"{"type":"remark","message":"a"}"#), remark("a"));
        assert_eq!(read(1, r#"{"type":"remark"}"#), Err("no text".to_owned()));
        for unknown in [0, 4, -1] {
            let problem = read(unknown, r#"{"type":"remark","message":"a"}"#).unwrap_err();
            assert!(problem.contains("does not know"), "{problem}");
        }
    }
}
