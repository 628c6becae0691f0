//! Random arguments are thrown at every tool on a whole tree with scripted ports and a paused clock: never a panic, never a
//! hang, always a well-formed result, and nothing is lost.
//!
//! `CHARGEHAND_TEST_THROWN` says how many (4000 without it), `CHARGEHAND_TEST_SEED` where to begin; a failure names both.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chargehand_actors::command::Origin;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::{Random, World};
use chargehand_actors::ports::StopHow;
use chargehand_actors::tree::TreeHandle;
use rmcp::model::{CallToolResult, JsonObject};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::answer::{Refusal, result};
use super::args::{Arg, Args};
use super::call::{Call, Edge};
use super::thrown_arguments::{self as arguments, Known};
use super::tools::{TOOLS, Tool};
use crate::config::Settings;
use crate::who::{Role, Who};

/// Longer than any call may take: the longest wait and the tree's own bound.
const LONGEST_CALL: Duration = Duration::from_secs(90);

/// Longer than the whole test, in the time of its clock.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The longest text of a refusal that a person can still be expected to read.
const LONGEST_REFUSAL: usize = 10_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

struct Range {
    world: World,
    edge: Edge,
    known: Known,
    /// Tasks that were accepted, and no others.
    accepted: BTreeSet<String>,
    /// Tool and word -> how often: `ok`, or the code of the refusal.
    seen: BTreeMap<(&'static str, String), u64>,
}

/// Whoever reaches a loopback server without tokens.
fn local() -> Who {
    Who {
        token: "local".to_owned(),
        role: Role::Local,
        header: None,
        agents: Vec::new().into(),
        from: Origin::default(),
        revoked: CancellationToken::new(),
        max_sessions: None,
        calls: None,
    }
}

impl Range {
    fn call(&self) -> Call {
        Call {
            edge: self.edge.clone(),
            who: local(),
            conversation: None,
            gone: CancellationToken::new(),
        }
    }

    /// As the server answers a tool call.
    async fn answer(&self, tool: &'static Tool, arguments: JsonObject) -> CallToolResult {
        let answered = async {
            match Args::check(tool.args, arguments) {
                Ok(args) => (tool.run)(self.call(), args).await,
                Err(bad) => result::<()>(tool.name, Err(Refusal::Arguments(bad))),
            }
        };
        let answered = tokio::time::timeout(LONGEST_CALL, answered).await;
        answered.expect("the call hangs").result
    }

    async fn throw(&mut self, random: &mut Random) {
        // New tasks and commands twice as often as the other tools.
        let at = usize::try_from(random.below(TOOLS.len() as u64 + 4)).unwrap();
        let tool = TOOLS.get(at).unwrap_or(&TOOLS[at % 4]);
        let right = random.chance(500);
        let make = if right {
            arguments::right
        } else {
            arguments::spoilt
        };
        let arguments = make(random, tool.args, &self.known);
        let answer = self.answer(tool, arguments.clone()).await;
        let word = self.judge(tool, &answer, right);
        let word = word.unwrap_or_else(|why| {
            let answer = serde_json::to_value(&answer).unwrap();
            let arguments = Value::Object(arguments);
            panic!("{} {}: {why}: {}", tool.name, cut(&arguments), cut(&answer))
        });
        *self.seen.entry((tool.name, word)).or_default() += 1;
    }

    /// `ok` or the code of the refusal; an error when the answer is not what it must be.
    fn judge(
        &mut self,
        tool: &Tool,
        answer: &CallToolResult,
        right: bool,
    ) -> Result<String, String> {
        let body = body(answer)?;
        if answer.is_error != Some(true) {
            success(tool, answer, &body)?;
            self.learn(tool, &body);
            return Ok("ok".to_owned());
        }
        let code = refusal(tool, &body)?;
        // Which cursors are right depends on the time that they are used.
        let cursor = body["fields"][0]["field"] == "cursor";
        if right && code == "INVALID_ARGUMENT" && !cursor {
            return Err("right arguments are refused".to_owned());
        }
        Ok(code)
    }

    /// Takes over ids from an answer, so that later calls can use them.
    fn learn(&mut self, tool: &Tool, body: &Value) {
        const KEPT: usize = 8;
        let keep = |list: &mut Vec<String>, word: &Value| {
            if let Some(word) = word.as_str() {
                list.push(word.to_owned());
                if list.len() > KEPT {
                    list.remove(0);
                }
            }
        };
        if tool.name == "opencode_execute_task" {
            let fresh = self
                .accepted
                .insert(body["task_id"].as_str().unwrap().to_owned());
            assert_eq!(fresh, body["existing"] == false, "{body}");
            keep(&mut self.known.tasks, &body["task_id"]);
        }
        for request in body["requests"].as_array().into_iter().flatten() {
            keep(&mut self.known.requests, &request["request_id"]);
        }
        keep(&mut self.known.cursors, &body["next_cursor"]);
    }

    async fn ok(&self, tool: &str, arguments: Value) -> Value {
        let tool = TOOLS.iter().find(|one| one.name == tool).unwrap();
        let answer = self
            .answer(tool, arguments.as_object().unwrap().clone())
            .await;
        let body = body(&answer).unwrap();
        assert_ne!(answer.is_error, Some(true), "{body}");
        body
    }

    /// Ids of all tasks that can be listed.
    async fn listed(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut page = json!({"limit": 200});
        loop {
            let list = self.ok("list_tasks", page.clone()).await;
            let ids = list["tasks"].as_array().unwrap().iter();
            all.extend(ids.map(|task| task["task_id"].as_str().unwrap().to_owned()));
            match list.get("next_cursor") {
                Some(cursor) => page["cursor"] = cursor.clone(),
                None => return all,
            }
        }
    }
}

fn cut(value: &Value) -> String {
    value.to_string().chars().take(2_000).collect()
}

/// The one JSON object of a result.
fn body(answer: &CallToolResult) -> Result<Value, String> {
    let whole = serde_json::to_value(answer).map_err(|error| error.to_string())?;
    let content = whole["content"].as_array().ok_or("no content")?;
    let [one] = content.as_slice() else {
        return Err(format!("{} pieces of content", content.len()));
    };
    let text = one["text"].as_str().ok_or("no text")?;
    let body: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if body.is_object() {
        Ok(body)
    } else {
        Err("no object".to_owned())
    }
}

/// The code of a refusal, if it says what a refusal must say.
fn refusal(tool: &Tool, body: &Value) -> Result<String, String> {
    let code = body["code"].as_str().ok_or("no code")?;
    let text = body["error"].as_str().ok_or("no error")?;
    if text.trim().is_empty() || text.len() > LONGEST_REFUSAL {
        return Err(format!("a text of {} bytes", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("control characters in the text".to_owned());
    }
    match code {
        "INVALID_ARGUMENT" => named_fields(tool, body)?,
        // Nothing fails inside, and nothing takes longer than a call may.
        "INTERNAL" | "NO_ANSWER_YET" | "UNAVAILABLE" => {
            return Err("a failure of the server".to_owned());
        }
        _ => {}
    }
    Ok(code.to_owned())
}

fn named_fields(tool: &Tool, body: &Value) -> Result<(), String> {
    let fields = body["fields"].as_array().ok_or("no fields")?;
    if fields.is_empty() {
        return Err("no field is named".to_owned());
    }
    for field in fields {
        let part = |name: &str| field[name].as_str().filter(|text| !text.trim().is_empty());
        let name = field["field"].as_str().ok_or("a field without name")?;
        let problem = part("problem").ok_or_else(|| format!("{name:?} without problem"))?;
        part("allowed").ok_or_else(|| format!("{name:?} without what is allowed"))?;
        let ours = tool
            .args
            .iter()
            .any(|arg: &Arg| name.split('.').next() == Some(arg.name));
        if !ours && !problem.contains("is no argument") && name != "arguments" {
            return Err(format!("{name:?} is no argument of the tool: {problem}"));
        }
    }
    let next = body["next"].as_str().unwrap_or_default();
    if next.contains("Nothing was done") {
        Ok(())
    } else {
        Err("it does not say that nothing was done".to_owned())
    }
}

/// Whether a success is what the tool's schema promises.
fn success(tool: &Tool, answer: &CallToolResult, body: &Value) -> Result<(), String> {
    if answer.structured_content.as_ref() != Some(body) {
        return Err("text and structured content differ".to_owned());
    }
    let schema = (tool.output)();
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if body.get(name).is_none() {
            return Err(format!("{name} is missing"));
        }
    }
    let known = schema.get("properties").and_then(Value::as_object);
    for name in body
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.keys())
    {
        if known.is_none_or(|known| !known.contains_key(name)) {
            return Err(format!("{name} is not in the schema"));
        }
    }
    Ok(())
}

async fn range(seed: u64, tree: TreeHandle, world: World) -> Range {
    let settings = Settings::default();
    let edge = Edge {
        tree,
        settings: Arc::new(settings),
        counters: Arc::default(),
        clock: world.clock.clone(),
        port: 3500,
        stopping: CancellationToken::new(),
    };
    println!("seed {seed}");
    Range {
        world,
        edge,
        known: Known::default(),
        accepted: BTreeSet::new(),
        seen: BTreeMap::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn random_arguments_get_a_clear_answer_and_lose_nothing() {
    let seed = setting("CHARGEHAND_TEST_SEED", 1);
    let count = setting("CHARGEHAND_TEST_THROWN", 4_000);
    let mut world = World::new(seed);
    // Waits pass in no time here, so days go by; the bystander is to outlive them.
    world.settings.hard_deadline = FOR_EVER;
    world.settings.max_running = 5;
    world.settings.silence_warn = Duration::ZERO;
    world.settings.silence_nudge = Duration::ZERO;
    world.settings.silence_fail = Duration::ZERO;
    world.settings.keep_tasks = Duration::ZERO;
    world.settings.keep_files = Duration::ZERO;
    let tree = world.start().await.unwrap();
    let mut range = range(seed, tree.handle(), world.clone()).await;
    // Beside all of it a task runs whose id nothing is thrown at.
    let mut beside = World::task("hang");
    beside.spec.timeout_ms = u64::try_from(FOR_EVER.as_millis()).unwrap();
    let bystander = tree.handle().submit(beside).await.unwrap().task;
    let running = World::reach(&tree.handle(), bystander, Phase::Running, LONGEST_CALL)
        .await
        .unwrap();
    assert_eq!(running.phase, Phase::Running);

    let mut random = Random::new(seed);
    for _ in 0..count {
        range.throw(&mut random).await;
    }

    let view = World::view(&tree.handle(), bystander).await.unwrap();
    println!(
        "{} tasks accepted, bystander {:?}",
        range.accepted.len(),
        view.phase
    );
    for ((tool, word), times) in &range.seen {
        println!("{tool:24} {word:24} {times}");
    }
    for tool in &TOOLS {
        let of = |wrong: bool| {
            let all = range.seen.iter();
            all.filter(|((name, word), _)| {
                *name == tool.name && (word == "INVALID_ARGUMENT") == wrong
            })
            .map(|(_, times)| times)
            .sum::<u64>()
        };
        let enough = count / 400;
        assert!(of(false) > enough, "{} was hardly ever done", tool.name);
        assert!(of(true) > enough, "{} was hardly ever refused", tool.name);
    }
    let mut expected = range.accepted.clone();
    expected.insert(bystander.to_string());
    assert_eq!(
        range.listed().await,
        expected,
        "a task was lost, or came from nowhere"
    );
    for task in &range.accepted {
        let status = range.ok("get_task_status", json!({"task_id": task})).await;
        let phase = Phase::ALL
            .into_iter()
            .find(|phase| status["phase"] == phase.as_str());
        if !phase.unwrap().is_final() {
            range
                .ok(
                    "send_task_control",
                    json!({"task_id": task, "control": "cancel"}),
                )
                .await;
        }
    }
    assert_eq!(view.phase, Phase::Running);
    assert_eq!(
        range.world.stop(tree, StopHow::EndWorkers).await,
        Vec::<String>::new()
    );
}
