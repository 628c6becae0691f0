use serde_json::Value;

use super::{TOOLS, find, listed};

/// Calls `look` on every schema inside `schema`, itself included, with its path.
fn walk(path: &str, schema: &Value, look: &mut impl FnMut(&str, &serde_json::Map<String, Value>)) {
    match schema {
        Value::Object(fields) => {
            look(path, fields);
            for (name, inner) in fields {
                walk(&format!("{path}/{name}"), inner, look);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                walk(&format!("{path}/{index}"), inner, look);
            }
        }
        _ => {}
    }
}

fn schemas() -> Vec<(String, Value)> {
    listed()
        .iter()
        .flat_map(|tool| {
            let output = tool.output_schema.clone().unwrap_or_default();
            [
                (
                    format!("{} in", tool.name),
                    Value::Object((*tool.input_schema).clone()),
                ),
                (
                    format!("{} out", tool.name),
                    Value::Object((*output).clone()),
                ),
            ]
        })
        .collect()
}

#[test]
fn no_schema_has_a_union_with_null() {
    for (name, schema) in schemas() {
        walk(&name, &schema, &mut |path, fields| {
            if let Some(kind) = fields.get("type")
                && !path.ends_with("/properties")
            {
                assert!(kind.is_string(), "{path}: type {kind}");
                assert_ne!(kind, "null", "{path}");
            }
            for union in ["anyOf", "oneOf", "$ref", "nullable"] {
                assert!(!fields.contains_key(union), "{path} has {union}");
            }
        });
    }
}

#[test]
fn every_schema_is_an_object_and_every_property_is_explained() {
    for (name, schema) in schemas() {
        assert_eq!(schema["type"], "object", "{name}");
        let mut explained = 0;
        walk(&name, &schema, &mut |path, fields| {
            if let Some((parent, property)) = path.rsplit_once('/')
                && parent.ends_with("/properties")
            {
                assert!(
                    fields.contains_key("description"),
                    "{property} in {path} is not explained"
                );
                explained += 1;
            }
        });
        let empty = schema["properties"]
            .as_object()
            .is_some_and(|p| p.is_empty());
        assert!(empty || explained > 0, "{name}");
    }
}

#[test]
fn every_required_field_is_a_property() {
    for (name, schema) in schemas() {
        walk(&name, &schema, &mut |path, fields| {
            let Some(Value::Array(required)) = fields.get("required") else {
                return;
            };
            for field in required {
                let known = field
                    .as_str()
                    .is_some_and(|field| fields["properties"].get(field).is_some());
                assert!(known, "{path} requires {field}");
            }
        });
    }
}

#[test]
fn fifteen_tools_of_different_names() {
    let mut names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    assert_eq!(
        names,
        [
            "opencode_execute_task",
            "get_task_status",
            "send_task_message",
            "send_task_control",
            "answer_task_request",
            "get_task_history",
            "get_task_files",
            "read_task_file",
            "list_tasks",
            "add_task_observer",
            "remove_task_observer",
            "list_task_observers",
            "archive_task_conversation",
            "ping",
            "health",
        ]
    );
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 15);
}

#[test]
fn an_unknown_tool_is_told_the_nearest() {
    let text = find("get_task_stat").err().unwrap_or_default();
    assert!(text.contains("get_task_status"), "{text}");
    let text = find("frobnicate").err().unwrap_or_default();
    assert!(text.contains("list_tasks"), "{text}");
}
