//! What a container of ours is called, and the labels by which it is found again. Pure.
//!
//! In: instance, attempt, caller. Out: the name, the labels; and from either back to the attempt.

use std::collections::HashMap;
use std::path::Path;

use chargehand_actors::id::{AttemptId, InstanceId};

/// Label that carries the instance.
pub(super) const INSTANCE: &str = "chargehand.instance";
const TASK: &str = "chargehand.task";
const ATTEMPT: &str = "chargehand.attempt";
const CALLER: &str = "chargehand.caller";
/// Label that carries where the instance has its data directory.
pub(super) const DATA_DIR: &str = "chargehand.data_dir";

/// `<instance>-<task>-<attempt>`: the same for a repeated create, which then finds the first.
pub(super) fn name(instance: &InstanceId, attempt: AttemptId) -> String {
    format!("{instance}-{}-{}", attempt.task, attempt.number)
}

/// The attempt that a name is of, when it is this instance's.
pub(super) fn named(instance: &InstanceId, name: &str) -> Option<AttemptId> {
    let rest = name.strip_prefix(&format!("{instance}-"))?;
    let (task, number) = rest.rsplit_once('-')?;
    Some(AttemptId {
        task: task.parse().ok()?,
        number: number.parse().ok()?,
    })
}

/// The labels of what belongs to an attempt.
pub(super) fn labels(
    instance: &InstanceId,
    attempt: AttemptId,
    caller: &str,
    data_dir: &Path,
) -> HashMap<String, String> {
    HashMap::from([
        (INSTANCE.to_owned(), instance.to_string()),
        (TASK.to_owned(), attempt.task.to_string()),
        (ATTEMPT.to_owned(), attempt.number.to_string()),
        (CALLER.to_owned(), caller.to_owned()),
        (DATA_DIR.to_owned(), data_dir.to_string_lossy().into_owned()),
    ])
}

/// The attempt that the labels name, when they are this instance's.
pub(super) fn owner(instance: &InstanceId, labels: &HashMap<String, String>) -> Option<AttemptId> {
    if labels.get(INSTANCE)? != &instance.to_string() {
        return None;
    }
    Some(AttemptId {
        task: labels.get(TASK)?.parse().ok()?,
        number: labels.get(ATTEMPT)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use chargehand_actors::id::TaskId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn labels_and_names_lead_back_to_their_own_instance_only() {
        let instance = InstanceId("i-1".to_owned());
        let other = InstanceId("i-2".to_owned());
        let attempt = AttemptId {
            task: TaskId::new(Uuid::from_u128(7)),
            number: 2,
        };
        let labels = labels(&instance, attempt, "planner/agent", Path::new("/data"));
        assert_eq!(owner(&instance, &labels), Some(attempt));
        assert_eq!(owner(&other, &labels), None);
        assert_eq!(owner(&instance, &HashMap::new()), None);
        let name = name(&instance, attempt);
        assert_eq!(name, "i-1-00000000-0000-0000-0000-000000000007-2");
        assert_eq!(named(&instance, &name), Some(attempt));
        assert_eq!(named(&other, &name), None);
        for bad in [
            "",
            "i-1-",
            "i-1-x-1",
            "i-1-00000000-0000-0000-0000-000000000007-x",
        ] {
            assert_eq!(named(&instance, bad), None, "{bad}");
        }
    }
}
