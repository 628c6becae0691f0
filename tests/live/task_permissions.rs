//! Permissions with the real OpenCode: by its rules, by the task's policy, by people, by default; in child sessions; from outside.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use chargehand_actors::command::{Answer, PermissionAction, PermissionRule};
use chargehand_actors::event::{Event, FailureKind, Phase, RequestEnd, RequestKind};
use serde_json::{Value, json};

use crate::harness::{Live, bash};
use crate::harness_tree::{Grove, file_of, sub_agent};
use crate::task_old_opencode::{OLDEST, installed};

const ONCE: Answer = Answer::Allow { always: false };

fn rules(allow: &[&str], ask: &[&str], deny: &[&str]) -> Vec<PermissionRule> {
    let of = |list: &[&str], action| -> Vec<PermissionRule> {
        let parsed = list.iter().map(|text| PermissionRule::parse(text, action));
        parsed.map(Option::unwrap).collect()
    };
    let mut all = of(allow, PermissionAction::Allow);
    all.extend(of(ask, PermissionAction::Ask));
    all.extend(of(deny, PermissionAction::Deny));
    all
}

/// Who answered the requests, in order.
fn answered_by(events: &[Event]) -> Vec<&str> {
    let by = events.iter().filter_map(|event| match event {
        Event::AnswerWanted { by, .. } => Some(by.as_str()),
        _ => None,
    });
    by.collect()
}

fn denial(message: &str) -> Answer {
    Answer::Deny {
        message: message.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_reach_opencode_and_people_answer_the_rest() {
    let Some(grove) = Grove::start(json!({}), |_| {}).await else {
        return;
    };
    let script = json!({"turns": [
        bash("touch free.txt"),
        bash("rm free.txt"),
        bash("echo asked > asked.txt"),
        bash("printf refused > refused.txt"),
        bash("echo again > again.txt"),
        bash("echo secret > secret.txt"),
        {"text": "finished"}]});
    let task = grove
        .submit(script, |spec| {
            spec.attended = true;
            spec.permissions = rules(&[], &["bash"], &["bash:rm *", "bash:echo secret*"]);
            let free = rules(&["bash:touch *"], &[], &[]);
            spec.permissions.splice(1..1, free);
        })
        .await;
    let first = grove.asked(task).await;
    assert!(first.request.text.contains("echo asked"), "{first:?}");
    assert_eq!(grove.view(task).await.phase, Phase::InputRequired);
    // For good: the like is not asked again, and a denial still holds.
    let for_good = Answer::Allow { always: true };
    grove.answer(task, &first, for_good).await;
    let second = grove.asked(task).await;
    assert!(second.request.text.contains("printf"), "{second:?}");
    grove.answer(task, &second, denial("not this one")).await;
    let done = grove.reach(task, Phase::Completed).await;
    let names = [
        "free.txt",
        "asked.txt",
        "refused.txt",
        "again.txt",
        "secret.txt",
    ];
    let there = names.map(|name| file_of(&done, name).is_some());
    assert_eq!(there, [true, true, false, true, false]);
    let events = grove.removed(task).await;
    assert_eq!(answered_by(&events), ["live test", "live test", "policy"]);
    let last = grove
        .model_requests("echo secret")
        .pop()
        .unwrap()
        .to_string();
    assert!(last.contains("not this one"), "the worker read the refusal");
    assert!(
        last.contains("prevents you from using"),
        "and the rule's denial"
    );
    grove.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers() {
    let start = Grove::start(json!({}), |settings| {
        settings.request_expiry = Duration::from_secs(2);
    });
    let Some(grove) = start.await else {
        return;
    };
    let question = json!({"tools": [{"name": "question", "args": {"questions": [
        {"question": "Which one?", "header": "Pick", "options": [{"label": "A", "description": "a"}]}]}}]});
    for attended in [false, true] {
        let script = json!({"turns": [bash("echo x > x.txt"), question, {"text": "finished"}]});
        let task = grove
            .submit(script, |spec| {
                spec.attended = attended;
                spec.permissions = rules(&[], &["bash"], &[]);
            })
            .await;
        let done = grove.reach(task, Phase::Completed).await;
        assert_eq!(file_of(&done, "x.txt"), None);
        let events = grove.removed(task).await;
        assert_eq!(answered_by(&events), ["default", "default"]);
        let ends: Vec<RequestEnd> = events
            .iter()
            .filter_map(|event| match event {
                Event::RequestClosed { end, .. } => Some(*end),
                _ => None,
            })
            .collect();
        assert_eq!(ends, [RequestEnd::Defaulted, RequestEnd::Defaulted]);
    }
    grove.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_sub_agent_are_requests_of_the_task() {
    // What stands in the server's configuration reaches child sessions.
    let config = json!({"permission": {"bash": {"touch *": "ask"}, "external_directory": "deny"}});
    let Some(grove) = Grove::start(config, |_| {}).await else {
        return;
    };
    let part = json!([bash("touch yes.txt"), bash("touch asked.txt"), bash("touch no.txt"), {"text": "part done"}]);
    let script = json!({"turns": [sub_agent(part), {"text": "finished"}]});
    let task = grove
        .submit(script, |spec| {
            spec.attended = true;
            spec.permissions = rules(&["bash:touch yes*"], &["bash:touch *"], &[]);
            spec.permissions.swap(0, 1);
        })
        .await;
    let asked = grove.asked(task).await;
    let view = grove.view(task).await;
    assert_ne!(Some(&asked.request.session), view.session.as_ref());
    assert!(asked.request.text.contains("asked.txt"), "{asked:?}");
    assert!(file_of(&view, "yes.txt").is_some(), "allowed by the policy");
    grove.answer(task, &asked, ONCE).await;
    let asked = grove.asked(task).await;
    assert!(asked.request.text.contains("no.txt"), "{asked:?}");
    grove.answer(task, &asked, denial("leave it")).await;
    let done = grove.reach(task, Phase::Completed).await;
    let there = ["asked.txt", "no.txt"].map(|name| file_of(&done, name).is_some());
    assert_eq!(there, [true, false]);
    let events = grove.removed(task).await;
    assert_eq!(answered_by(&events), ["policy", "live test", "live test"]);
    grove.stop().await;
}

/// Names of the tools that the model was offered for a task with this mark.
fn tools_offered(grove: &Grove, mark: &str) -> Vec<String> {
    let request = grove.model_requests(mark).remove(0);
    let tools = request["tools"].as_array().unwrap();
    let name = |tool: &Value| tool["function"]["name"].as_str().unwrap().to_owned();
    tools.iter().map(name).collect()
}

/// Runs an empty task under these rules, and tells whether it could have had sub-agents.
async fn may_have_sub_agents(grove: &Grove, mark: &str, rules: Vec<PermissionRule>) -> bool {
    let script = json!({"turns": [{"text": mark}]});
    let task = grove.submit(script, |spec| spec.permissions = rules).await;
    grove.reach(task, Phase::Completed).await;
    let offered = tools_offered(grove, mark);
    assert!(offered.contains(&"read".to_owned()), "{offered:?}");
    offered.contains(&"task".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_sub_agent_that_would_not_obey() {
    let config = json!({"permission": {"bash": {"touch *": "ask"}}});
    let Some(grove) = Grove::start(config, |_| {}).await else {
        return;
    };
    let check = [
        ("mark-none", rules(&[], &[], &[]), true),
        ("mark-deny", rules(&[], &[], &["bash:rm *"]), true),
        ("mark-ask", rules(&[], &["bash:rm *"], &[]), false),
        ("mark-configured", rules(&[], &["bash:touch *"], &[]), true),
        (
            "mark-outside",
            rules(&[], &["external_directory:/tmp/*"], &[]),
            true,
        ),
    ];
    for (mark, rules, expected) in check {
        assert_eq!(
            may_have_sub_agents(&grove, mark, rules).await,
            expected,
            "{mark}"
        );
    }
    grove.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_opencode_keeps_the_rules_too() {
    let Some(program) = installed(OLDEST) else {
        return;
    };
    let Some(mut live) = Live::new(json!({})).await else {
        return;
    };
    live.settings.binary = Some(program);
    let grove = Grove::on(live, |_| {}).await;
    let script = json!({"turns": [bash("rm x.txt; true"), bash("echo asked > asked.txt"), {"text": "finished"}]});
    let task = grove
        .submit(script, |spec| {
            spec.attended = true;
            spec.permissions = rules(&[], &["bash:echo *"], &["bash:rm *"]);
        })
        .await;
    let asked = grove.asked(task).await;
    grove.answer(task, &asked, ONCE).await;
    let done = grove.reach(task, Phase::Completed).await;
    assert!(file_of(&done, "asked.txt").is_some());
    let last = grove.model_requests("asked.txt").pop().unwrap();
    assert!(last.to_string().contains("prevents you from using"));
    // Its child sessions inherit no denial.
    let denies = rules(&[], &[], &["bash:rm *"]);
    assert!(!may_have_sub_agents(&grove, "mark-old", denies).await);
    assert!(may_have_sub_agents(&grove, "mark-older", Vec::new()).await);
    grove.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_from_outside_that_ends_the_run_is_no_success() {
    let Some(grove) =
        Grove::start(json!({"permission": {"bash": {"touch *": "ask"}}}), |_| {}).await
    else {
        return;
    };
    let question = json!({"tools": [{"name": "question", "args": {"questions": [
        {"question": "Which one?", "header": "Pick", "options": [{"label": "A", "description": "a"}]}]}}]});
    let both = json!({"tools": [
        {"name": "bash", "args": {"command": "touch a.txt", "description": "d"}},
        {"name": "glob", "args": {"pattern": "*"}}]});
    let of_child = sub_agent(json!([bash("touch b.txt"), {"text": "never"}]));
    for (turn, fails) in [(both, true), (question, true), (of_child, false)] {
        let script = json!({"turns": [turn, {"text": "finished"}]});
        let task = grove.submit(script, |spec| spec.attended = true).await;
        let asked = grove.asked(task).await;
        let directory = grove.view(task).await.directory.unwrap();
        let (kind, body) = match asked.request.kind {
            RequestKind::Permission { .. } => ("permission", json!({"reply": "reject"})),
            RequestKind::Question { .. } => ("question", json!({})),
        };
        let verb = if kind == "permission" {
            "reply"
        } else {
            "reject"
        };
        let path = format!("/{kind}/{}/{verb}?directory={directory}", asked.request.id);
        grove.worker().post(&path, body).await;
        let phase = if fails {
            Phase::Failed
        } else {
            Phase::Completed
        };
        let view = grove.reach(task, phase).await;
        assert_eq!(
            view.failure.map(|failure| failure.kind),
            fails.then_some(FailureKind::Rejected),
            "a sub-agent that was refused is an error that the worker reads"
        );
        assert_eq!(answered_by(&grove.removed(task).await), Vec::<&str>::new());
    }
    grove.stop().await;
}
