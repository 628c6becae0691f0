//! Tool calls with one wrong argument each, and what their refusal must say.

use serde_json::{Value, json};

/// A task id that no task has.
pub(crate) const TASK: &str = "5b8f0b0e-6f0c-4a0e-9d7c-2b1a3c4d5e6f";

const EXECUTE: &str = "opencode_execute_task";

/// Tool, arguments, the field that is named, a part of the refusal's text.
pub(crate) type WrongCall = (&'static str, Value, &'static str, &'static str);

/// All of them.
pub(crate) fn wrong_calls() -> Vec<WrongCall> {
    let mut all = owners_and_texts();
    all.extend(numbers_and_words());
    all.extend(sources());
    all.extend(reading());
    all.extend(steering());
    all.extend(policies());
    all.extend(answers());
    all
}

/// `base` with one field more or another value.
fn with(base: &Value, field: &str, value: Value) -> Value {
    let mut arguments = base.clone();
    arguments[field] = value;
    arguments
}

fn execute(field: &str, value: Value) -> Value {
    with(
        &json!({"agent_id": "a", "task_description": "d"}),
        field,
        value,
    )
}

fn of_task(field: &str, value: Value) -> Value {
    with(&json!({"task_id": TASK}), field, value)
}

fn owners_and_texts() -> Vec<WrongCall> {
    let owned_by = |agent: Value| execute("agent_id", agent);
    let described = |text: Value| execute("task_description", text);
    let key = |key: &str| execute("idempotency_key", json!(key));
    let owner = json!({"task_description": "d"});
    vec![
        (EXECUTE, json!({}), "task_description", "is missing"),
        (EXECUTE, owner, "agent_id", "X-Agent-Id"),
        (EXECUTE, owned_by(json!("")), "agent_id", "1 to 200"),
        (EXECUTE, owned_by(json!("x".repeat(201))), "agent_id", "201"),
        (
            EXECUTE,
            owned_by(json!("a\nb")),
            "agent_id",
            "control characters",
        ),
        (EXECUTE, owned_by(json!(["a"])), "agent_id", "is a list"),
        (
            EXECUTE,
            described(json!("")),
            "task_description",
            "1 to 100000",
        ),
        (
            EXECUTE,
            described(json!("  \n ")),
            "task_description",
            "blank",
        ),
        (
            EXECUTE,
            described(json!("x".repeat(100_001))),
            "task_description",
            "100001",
        ),
        (
            EXECUTE,
            described(json!({"text": "d"})),
            "task_description",
            "is an object",
        ),
        (
            EXECUTE,
            described(json!(null)),
            "task_description",
            "is missing",
        ),
        (EXECUTE, described(json!("a\0b")), "task_description", "NUL"),
        (EXECUTE, key(""), "idempotency_key", "1 to 200"),
        (
            EXECUTE,
            key(&"k".repeat(201)),
            "idempotency_key",
            "1 to 200",
        ),
        (
            EXECUTE,
            execute("prompt", json!("x")),
            "prompt",
            "is no argument",
        ),
        (
            EXECUTE,
            execute("timeout", json!(5000)),
            "timeout",
            "is no argument",
        ),
        (
            EXECUTE,
            execute("agentId", json!("b")),
            "agentId",
            "agent_id",
        ),
    ]
}

fn numbers_and_words() -> Vec<WrongCall> {
    let timeout = |value: Value| execute("timeout_ms", value);
    let labels = |value: Value| execute("labels", value);
    let matrix = json!(["@ann:example.org", "@:x"]);
    vec![
        (
            EXECUTE,
            timeout(json!(999)),
            "timeout_ms",
            "from 1000 to 86400000",
        ),
        (
            EXECUTE,
            timeout(json!(86_400_001)),
            "timeout_ms",
            "from 1000",
        ),
        (EXECUTE, timeout(json!(-5)), "timeout_ms", "is -5"),
        (EXECUTE, timeout(json!(1500.5)), "timeout_ms", "is 1500.5"),
        (EXECUTE, timeout(json!("soon")), "timeout_ms", "\"soon\""),
        (EXECUTE, timeout(json!(true)), "timeout_ms", "truth value"),
        (EXECUTE, timeout(json!(1e300)), "timeout_ms", "whole number"),
        (
            EXECUTE,
            execute("sync", json!("maybe")),
            "sync",
            "true or false",
        ),
        (EXECUTE, execute("sync", json!(1)), "sync", "is a number"),
        (
            EXECUTE,
            execute("wait_seconds", json!(46)),
            "wait_seconds",
            "from 0 to 45",
        ),
        (
            EXECUTE,
            execute("wait_seconds", json!(-1)),
            "wait_seconds",
            "from 0 to 45",
        ),
        (
            EXECUTE,
            execute("model", json!("gpt")),
            "model",
            "provider/model",
        ),
        (
            EXECUTE,
            execute("model", json!("/gpt-5")),
            "model",
            "provider/model",
        ),
        (
            EXECUTE,
            execute("model", json!("open ai/gpt-5")),
            "model",
            "provider/model",
        ),
        (EXECUTE, execute("agent", json!("")), "agent", "1 to 100"),
        (EXECUTE, execute("engine", json!("")), "engine", "1 to 64"),
        (
            EXECUTE,
            execute("priority", json!("urgent")),
            "priority",
            "low, normal, high",
        ),
        (
            EXECUTE,
            execute("priority", json!("hihg")),
            "priority",
            "did you mean \"high\"",
        ),
        (EXECUTE, labels(json!({"a": 1})), "labels", "a list"),
        (
            EXECUTE,
            labels(json!(["x".repeat(65)])),
            "labels",
            "entry 0 has 65",
        ),
        (EXECUTE, labels(json!([""])), "labels", "entry 0"),
        (EXECUTE, labels(json!([null])), "labels", "entry 0 is null"),
        (
            EXECUTE,
            labels(json!(vec!["x"; 21])),
            "labels",
            "21 entries",
        ),
        (
            EXECUTE,
            execute("observers", json!(["ann"])),
            "observers",
            "Matrix user id",
        ),
        (
            EXECUTE,
            execute("observers", matrix),
            "observers",
            "entry 1",
        ),
    ]
}

fn sources() -> Vec<WrongCall> {
    let from = |source: Value| execute("repository", source);
    let url = |url: &str| from(json!({"url": url}));
    let reference = from(json!({"url": "https://x/y", "ref": "-x"}));
    let branch = from(json!({"url": "https://x/y", "branch": "b"}));
    let both = with(&url("https://x/y"), "directory", json!("/home/ann"));
    let relative = execute("directory", json!("relative/path"));
    vec![
        (EXECUTE, from(json!({})), "repository.url", "is missing"),
        (
            EXECUTE,
            from(json!("x")),
            "repository",
            "an object with url, ref",
        ),
        (EXECUTE, url("ftp://x/y"), "repository.url", "https://"),
        (
            EXECUTE,
            url("--upload-pack=id"),
            "repository.url",
            "starts with -",
        ),
        (EXECUTE, url("ext::sh -c id"), "repository.url", "https://"),
        (
            EXECUTE,
            url("https://a:b@x/y"),
            "repository.url",
            "credentials",
        ),
        (EXECUTE, reference, "repository.ref", "branch"),
        (EXECUTE, branch, "repository.branch", "only url, ref"),
        (EXECUTE, both, "directory", "only one of the two"),
        (EXECUTE, relative, "directory", "absolute path"),
    ]
}

fn reading() -> Vec<WrongCall> {
    let (status, history) = ("get_task_status", "get_task_history");
    let (files, read, list) = ("get_task_files", "read_task_file", "list_tasks");
    let file =
        |field: &str, value: Value| with(&json!({"task_id": TASK, "file_path": "a"}), field, value);
    let states = json!({"state": ["running", "sleeping"]});
    let yesterday = json!({"created_after": "yesterday"});
    let before = json!({"created_before": -1});
    vec![
        (status, json!({}), "task_id", "is missing"),
        (status, json!({"task_id": ""}), "task_id", "UUID"),
        (
            status,
            json!({"task_id": "task-1730000000000-abc"}),
            "task_id",
            "opencode_execute_task",
        ),
        (status, json!({"task_id": 7}), "task_id", "no task id"),
        (status, json!({"taskId": TASK}), "taskId", "task_id"),
        (
            status,
            of_task("wait_seconds", json!(60)),
            "wait_seconds",
            "from 0 to 45",
        ),
        (
            status,
            of_task("wait_seconds", json!("a while")),
            "wait_seconds",
            "\"a while\"",
        ),
        (
            status,
            of_task("since_event", json!(-1)),
            "since_event",
            "is -1",
        ),
        (
            status,
            of_task("since", json!(1)),
            "since",
            "is no argument",
        ),
        (
            history,
            of_task("events_limit", json!(-2)),
            "events_limit",
            "from -1 to 10000",
        ),
        (
            history,
            of_task("events_limit", json!(10_001)),
            "events_limit",
            "from -1 to 10000",
        ),
        (
            history,
            of_task("events_offset", json!(-1)),
            "events_offset",
            "is -1",
        ),
        (
            history,
            of_task("artifact", json!("everything")),
            "artifact",
            "changes.diff",
        ),
        (
            history,
            of_task("artifact_limit", json!(0)),
            "artifact_limit",
            "from 1 to 200000",
        ),
        (
            history,
            of_task("include_artifacts", json!("some")),
            "include_artifacts",
            "true or false",
        ),
        (files, of_task("limit", json!(0)), "limit", "from 1 to 2000"),
        (files, of_task("path", json!(["a"])), "path", "is a list"),
        (read, of_task("offset", json!(0)), "file_path", "is missing"),
        (read, file("file_path", json!("")), "file_path", "1 to 4096"),
        (read, file("limit", json!(1_000_001)), "limit", "1000000"),
        (read, of_task("path", json!("a")), "path", "is no argument"),
        (list, json!({"state": "done"}), "state", "completed"),
        (list, states, "state", "sleeping"),
        (list, yesterday, "created_after", "2026-11-22T16:00:00Z"),
        (list, before, "created_before", "milliseconds"),
        (list, json!({"limit": 201}), "limit", "from 1 to 200"),
        (list, json!({"label": ""}), "label", "1 to 64"),
        (list, json!({"cursor": "page 2"}), "cursor", "next_cursor"),
        ("ping", json!({"loud": true}), "loud", "no arguments at all"),
        (
            "health",
            json!({"verbose": true}),
            "verbose",
            "no arguments at all",
        ),
    ]
}

fn steering() -> Vec<WrongCall> {
    let (message, control) = ("send_task_message", "send_task_control");
    let say =
        |field: &str, value: Value| with(&json!({"task_id": TASK, "message": "m"}), field, value);
    let steer = |field: &str, value: Value| {
        with(&json!({"task_id": TASK, "control": "cancel"}), field, value)
    };
    let large = json!({"x": "y".repeat(10_000)});
    vec![
        (message, json!({"task_id": TASK}), "message", "is missing"),
        (message, say("message", json!("")), "message", "1 to 20000"),
        (
            message,
            say("message", json!("x".repeat(20_001))),
            "message",
            "20001",
        ),
        (
            message,
            say("message_type", json!("shout")),
            "message_type",
            "correction",
        ),
        (
            message,
            say("message_type", json!("feedbak")),
            "message_type",
            "mean \"feedback\"",
        ),
        (
            message,
            say("metadata", json!("x")),
            "metadata",
            "a JSON object",
        ),
        (
            message,
            say("metadata", large),
            "metadata",
            "at most 10000 bytes",
        ),
        (
            control,
            json!({"task_id": TASK}),
            "control",
            "cancel, pause, resume",
        ),
        (
            control,
            steer("control", json!("kill")),
            "control",
            "cancel, pause, resume",
        ),
        (
            control,
            steer("control", json!("cancle")),
            "control",
            "did you mean \"cancel\"",
        ),
        (
            control,
            steer("reason", json!("x".repeat(2_001))),
            "reason",
            "2001",
        ),
    ]
}

fn policies() -> Vec<WrongCall> {
    let rules = |rules: Value| execute("permissions", rules);
    let steps = |steps: Value| execute("max_steps", steps);
    let many = json!({"deny": vec!["bash"; 101]});
    vec![
        (
            EXECUTE,
            execute("attended", json!("perhaps")),
            "attended",
            "true or false",
        ),
        (
            EXECUTE,
            rules(json!("bash")),
            "permissions",
            "allow, ask, deny",
        ),
        (EXECUTE, rules(json!(["bash"])), "permissions", "is a list"),
        (
            EXECUTE,
            rules(json!({"forbid": ["bash"]})),
            "permissions.forbid",
            "only allow, ask, deny",
        ),
        (
            EXECUTE,
            rules(json!({"allow": [7, ""]})),
            "permissions.allow",
            "entry 1",
        ),
        (
            EXECUTE,
            rules(json!({"allow": ["bash:"]})),
            "permissions.allow",
            "bash:git push*",
        ),
        (
            EXECUTE,
            rules(json!({"ask": ["rm -rf"]})),
            "permissions.ask",
            "entry 0 is no rule",
        ),
        (EXECUTE, rules(many), "permissions.deny", "101 entries"),
        (EXECUTE, steps(json!(0)), "max_steps", "from 1 to 100000"),
        (EXECUTE, steps(json!("few")), "max_steps", "\"few\""),
    ]
}

fn answers() -> Vec<WrongCall> {
    let tool = "answer_task_request";
    let answer = |answer: &str| json!({"task_id": TASK, "request_id": "per_1", "answer": answer});
    let chosen = |choices: Value| with(&answer("choices"), "choices", choices);
    vec![
        (
            tool,
            json!({"task_id": TASK, "answer": "allow"}),
            "request_id",
            "is missing",
        ),
        (
            tool,
            json!({"task_id": TASK, "request_id": "per_1"}),
            "answer",
            "allow, allow_always, deny, choices",
        ),
        (tool, answer("yes"), "answer", "one of allow"),
        (tool, answer("denny"), "answer", "did you mean \"deny\""),
        (
            tool,
            with(&answer("allow"), "request_id", json!("")),
            "request_id",
            "1 to 200",
        ),
        (
            tool,
            with(&answer("allow"), "message", json!("go on")),
            "message",
            "only with deny",
        ),
        (
            tool,
            with(&answer("deny"), "message", json!("x".repeat(2_001))),
            "message",
            "2001",
        ),
        (
            tool,
            with(&answer("deny"), "choices", json!([["a"]])),
            "choices",
            "only with answer=choices",
        ),
        (tool, answer("choices"), "choices", "is missing"),
        (
            tool,
            chosen(json!({"a": 1})),
            "choices",
            "a list of texts for each",
        ),
        (
            tool,
            chosen(json!([["a"], [7, {}]])),
            "choices",
            "list 1 entry 1",
        ),
        (tool, chosen(json!(vec![["a"]; 21])), "choices", "21 lists"),
        (tool, chosen(json!([[""]])), "choices", "list 0 entry 0"),
    ]
}
