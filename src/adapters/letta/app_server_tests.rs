use chargehand_actors::event::Phase;
use chargehand_actors::ports::LeftMemory;
use serde_json::json;

use super::{DESCRIPTION, label, left_in};
use crate::adapters::letta::sample;

const MARK: &str = "(chargehand one ";

#[test]
fn only_a_file_that_this_instance_wrote_for_a_task_counts_as_left() {
    let task = sample(Phase::Running).id;
    let name = format!("{}.md", label(task));
    let mark = format!("{MARK}{task})");
    let ours = format!("{DESCRIPTION} {mark}");
    // As Letta Code 0.34.12 lists a file: the front matter's description, and what stands below it.
    let left = |path: &str, description: &str, content: &str| {
        let entry = json!({"relative_path": path, "is_system": false, "kind": "markdown",
            "description": description, "content": content, "size": content.len()});
        left_in(&entry, MARK, "agent-1")
    };
    let expected = LeftMemory {
        task,
        id: name.clone(),
        label: label(task),
        agent: "agent-1".to_owned(),
    };
    assert_eq!(left(&name, &ours, "says\n"), Some(expected));
    let other = ours.replace("chargehand one", "chargehand two");
    let nothing = ours.replace(&task.to_string(), "nothing");
    let aside = format!("tasks/{name}");
    for (path, description, content) in [
        // An agent's own files.
        ("notes.md", ours.as_str(), ours.as_str()),
        (&name, "My own.", &mark),
        ("notes.md", "My own.", &mark),
        (&name, "", &format!("---\ndescription: {ours}\n---\n")),
        // Of another task, of another instance, put aside, of no task.
        ("oc_task_ffffffff.md", &ours, ""),
        (&name, &other, ""),
        (&aside, &ours, ""),
        (&name, &nothing, ""),
    ] {
        let found = left(path, description, content);
        assert_eq!(found, None, "{path}: {description}: {content}");
    }
}
