//! The scripted model, asked over HTTP as OpenCode asks it.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chargehand::scripted_model::{ReplyEnd, Scenario, ScriptedModel, opencode_provider_config};
use serde_json::{Value, json};

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn start(scenarios: Value) -> ScriptedModel {
    let scenarios: Vec<Scenario> = serde_json::from_value(scenarios).unwrap();
    ScriptedModel::start(LOOPBACK, scenarios).await.unwrap()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant() -> Value {
    json!({"role": "assistant", "content": "said before"})
}

fn request(messages: Vec<Value>) -> Value {
    let mut all = vec![json!({
        "role": "system",
        "content": "You work.\n<env>\n  Working directory: /tmp/a dir\n  Platform: linux\n</env>",
    })];
    all.extend(messages);
    json!({"model": "worker", "stream": true, "tools": [{"type": "function"}], "messages": all})
}

async fn post(model: &ScriptedModel, body: &Value) -> reqwest::Response {
    reqwest::Client::new()
        .post(format!("{}/chat/completions", model.base_url()))
        .json(body)
        .send()
        .await
        .unwrap()
}

/// What a client puts together from the stream.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: String,
    reasoning: String,
    tools: Vec<(String, Value)>,
    finish: Option<String>,
    usage: Option<Value>,
    done: bool,
}

async fn hear(model: &ScriptedModel, messages: Vec<Value>) -> Heard {
    let response = post(model, &request(messages)).await;
    assert_eq!(response.status(), 200);
    let stream = response.text().await.unwrap();
    let mut heard = Heard::default();
    let mut calls: Vec<(String, String)> = Vec::new();
    for line in stream.lines().filter_map(|l| l.strip_prefix("data: ")) {
        if line == "[DONE]" {
            heard.done = true;
            continue;
        }
        let chunk: Value = serde_json::from_str(line).unwrap();
        if chunk["usage"].is_object() {
            heard.usage = Some(chunk["usage"].clone());
        }
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        heard.text += delta["content"].as_str().unwrap_or_default();
        heard.reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
        if let Some(call) = delta["tool_calls"].get(0) {
            let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            if let Some(name) = call["function"]["name"].as_str() {
                calls.push((name.to_owned(), String::new()));
            }
            calls[index].1 += call["function"]["arguments"].as_str().unwrap();
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            heard.finish = Some(finish.to_owned());
        }
    }
    heard.tools = calls
        .into_iter()
        .map(|(name, args)| (name, serde_json::from_str(&args).unwrap()))
        .collect();
    heard
}

async fn said(model: &ScriptedModel, messages: Vec<Value>) -> String {
    hear(model, messages).await.text
}

async fn until(model: &ScriptedModel, want: ReplyEnd) {
    let start = Instant::now();
    while model.requests().last().map(|r| r.end) != Some(want) {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "never {want:?}: {:?}",
            model.requests()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn plays_an_inline_script_turn_by_turn_with_placeholders() {
    let model = start(json!([])).await;
    let prompt = user(
        r#"Do it. <script>{"turns": [
            {"reasoning": "häm", "chunk": 1, "tools": [
                {"name": "write", "args": {"filePath": "{{cwd}}/a.txt", "deep": [{"x": "{{model}}"}], "n": 3}},
                {"name": "todowrite"}],
             "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
            {"text": "tool said: {{last_tool}}", "chunk": 3}]}</script> Thanks."#,
    );
    let first = hear(&model, vec![prompt.clone()]).await;
    assert_eq!(
        first,
        Heard {
            reasoning: "häm".to_owned(),
            tools: vec![
                (
                    "write".to_owned(),
                    json!({"filePath": "/tmp/a dir/a.txt", "deep": [{"x": "worker"}], "n": 3})
                ),
                ("todowrite".to_owned(), json!({})),
            ],
            finish: Some("tool_calls".to_owned()),
            usage: Some(json!({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})),
            done: true,
            ..Heard::default()
        }
    );
    let tool = json!({"role": "tool", "content": [{"type": "text", "text": "ok {{model}}"}]});
    let second = hear(&model, vec![prompt.clone(), assistant(), tool.clone()]).await;
    assert_eq!(second.text, "tool said: ok {{model}}");
    assert_eq!(second.finish.as_deref(), Some("stop"));
    // Past the end the last turn is repeated.
    let third = said(&model, vec![prompt, assistant(), tool, assistant()]).await;
    assert_eq!(third, "tool said: ok {{model}}");
    let turns: Vec<_> = model.requests().iter().map(|r| r.turn).collect();
    assert_eq!(turns, [0, 1, 1]);
    model.stop().await;
}

#[tokio::test]
async fn a_script_can_hand_a_script_to_a_sub_agent() {
    let model = start(json!([])).await;
    let prompt = user(
        r#"<script>{"turns": [{"tools": [{"name": "task", "args": {
            "prompt": "<script>{\"turns\": [{\"text\": \"below\"}]}<\/script>"}}]}]}</script>"#,
    );
    let heard = hear(&model, vec![prompt]).await;
    let handed = heard.tools[0].1["prompt"].as_str().unwrap();
    assert_eq!(said(&model, vec![user(handed)]).await, "below");
}

#[tokio::test]
async fn messages_during_a_run_go_on_with_the_script_or_change_it() {
    let model = start(json!([])).await;
    let prompt = || {
        user(
            r#"<script>{"turns": [{"text": "zero"}, {"text": "one"}, {"text": "two"}],
            "on_message": [{"contains": "blue", "turns": [{"text": "b0"}, {"text": "b1"}],
                            "on_message": [{"contains": "red", "turns": [{"text": "r0"}]}]}]}</script>"#,
        )
    };
    let other = || user("go on");
    let blue = || user("make it blue");
    let red = || user("no, red");
    let a = assistant;
    for (messages, want) in [
        (vec![prompt()], "zero"),
        (vec![prompt(), a(), other()], "one"),
        (vec![prompt(), a(), other(), a()], "two"),
        (vec![prompt(), a(), blue()], "b0"),
        (vec![prompt(), a(), blue(), a(), other()], "b1"),
        (vec![prompt(), a(), red(), a()], "two"),
        (vec![prompt(), a(), blue(), a(), red(), a()], "r0"),
        // A script in a later message wins over the earlier one and what it says about messages.
        (
            vec![
                prompt(),
                a(),
                blue(),
                user(r#"<script>{"turns": [{"text": "n0"}, {"text": "n1"}]}</script>"#),
                a(),
            ],
            "n1",
        ),
    ] {
        assert_eq!(said(&model, messages.clone()).await, want, "{messages:?}");
    }
}

#[tokio::test]
async fn scenarios_fit_by_text_then_by_model_and_titles_are_plain() {
    let model = start(json!([
        {"name": "other model", "match": {"model": "big"}, "turns": [{"text": "never"}]},
        {"name": "hello", "match": {"contains": "hello"}, "turns": [{"text": "h0"}, {"text": "h1"}]},
        {"name": "any", "turns": [{"text": "any0"}, {"text": "any1"}]},
    ]))
    .await;
    let a = assistant;
    assert_eq!(said(&model, vec![user("say hello")]).await, "h0");
    let resumed = vec![user("say hello"), a(), user("go on")];
    assert_eq!(said(&model, resumed).await, "h1");
    let other = vec![user("what?"), a(), user("go on")];
    assert_eq!(said(&model, other).await, "any1");
    let inline = user(r#"hello <script>{"name": "mine", "turns": [{"text": "i0"}]}</script>"#);
    assert_eq!(said(&model, vec![inline, user("hello")]).await, "i0");

    let mut title = request(vec![user("Title for: <script>not json</script>")]);
    title["tools"] = json!([]);
    assert_eq!(post(&model, &title).await.status(), 200);
    let names: Vec<_> = model.requests().into_iter().map(|r| r.scenario).collect();
    assert_eq!(names, ["hello", "hello", "any", "mine", "title"]);
}

#[tokio::test]
async fn errors_come_as_often_as_scripted_and_per_session() {
    let model = start(json!([])).await;
    let prompt = |n: u32| {
        user(&format!(
            r#"{n} <script>{{"turns": [{{"text": "fine", "error":
               {{"status": 429, "times": 2, "headers": {{"retry-after": 1}}, "body": {{"error": {{"message": "slow down"}}}}}}}}]}}</script>"#
        ))
    };
    for session in [1, 2] {
        for _ in 0..2 {
            let response = post(&model, &request(vec![prompt(session)])).await;
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], "1");
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["error"]["message"], "slow down");
        }
        assert_eq!(said(&model, vec![prompt(session)]).await, "fine");
    }
    let ends: Vec<_> = model.requests().iter().map(|r| r.end).collect();
    assert_eq!(
        ends[..3],
        [ReplyEnd::Error, ReplyEnd::Error, ReplyEnd::Done]
    );
}

#[tokio::test]
async fn a_script_that_cannot_be_read_is_refused_with_the_reason() {
    let model = start(json!([])).await;
    let misspelt = user(r#"<script>{"turns": [{"txt": "x"}]}</script>"#);
    let response = post(&model, &request(vec![misspelt])).await;
    assert_eq!(response.status(), 400);
    let body = response.text().await.unwrap();
    assert!(body.contains("unknown field `txt`"), "{body}");

    let mut whole = request(vec![user("x")]);
    whole["stream"] = json!(false);
    assert_eq!(post(&model, &whole).await.status(), 400);
    assert!(model.requests().iter().all(|r| r.end == ReplyEnd::Error));
}

#[tokio::test]
async fn a_cut_stream_ends_without_finish() {
    let model = start(json!([{"turns": [{"text": "half", "cut": true}]}])).await;
    let heard = hear(&model, vec![user("x")]).await;
    assert_eq!(heard.text, "half");
    assert_eq!((heard.finish, heard.done), (None, false));
    assert_eq!(model.requests()[0].end, ReplyEnd::Cut);
}

#[tokio::test]
async fn delays_count_and_a_client_that_leaves_is_recorded() {
    let model = start(json!([
        {"match": {"contains": "slow"}, "turns": [
            {"delay_ms": 120, "text": "abcd", "chunk": 1, "chunk_delay_ms": 30}]},
        {"turns": [{"text": "then silence", "hang_ms": 600_000}]},
    ]))
    .await;
    let start = Instant::now();
    assert_eq!(said(&model, vec![user("slow")]).await, "abcd");
    assert!(start.elapsed() >= Duration::from_millis(240));

    let mut response = post(&model, &request(vec![user("x")])).await;
    response.chunk().await.unwrap().unwrap();
    until(&model, ReplyEnd::Open).await;
    drop(response);
    until(&model, ReplyEnd::Aborted).await;
}

#[tokio::test]
async fn stop_ends_hanging_answers_and_frees_the_port() {
    let model = start(json!([{"turns": [{"text": "x", "hang_ms": 600_000}]}])).await;
    let address = model.base_url();
    let mut response = post(&model, &request(vec![user("x")])).await;
    response.chunk().await.unwrap().unwrap();
    let start = Instant::now();
    model.stop().await;
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(reqwest::get(format!("{address}/models")).await.is_err());
}

#[tokio::test]
async fn serves_its_record_and_models_and_listens_on_loopback_only() {
    let model = start(json!([])).await;
    said(&model, vec![user("x")]).await;
    until(&model, ReplyEnd::Done).await;
    let root = model.base_url().replace("/v1", "");
    let get = async |path: &str| -> Value {
        let response = reqwest::get(format!("{root}{path}")).await.unwrap();
        response.json().await.unwrap()
    };
    let record = get("/__script/requests").await;
    assert_eq!(record[0]["scenario"], "none");
    assert_eq!(record[0]["end"], "done");
    assert_eq!(record[0]["cwd"], "/tmp/a dir");
    assert_eq!(record[0]["body"]["model"], "worker");
    assert_eq!(get("/v1/models").await["data"][0]["id"], "worker");

    let open = ScriptedModel::start(([0, 0, 0, 0], 0).into(), Vec::new()).await;
    assert!(open.is_err_and(|e| e.to_string().contains("loopback only")));
}

#[test]
fn configures_opencode_for_itself_alone() {
    let config = opencode_provider_config("http://127.0.0.1:1/v1");
    assert_eq!(config["model"], "scripted/worker");
    assert_eq!(config["enabled_providers"], json!(["scripted"]));
    let provider = &config["provider"]["scripted"];
    assert_eq!(provider["options"]["baseURL"], "http://127.0.0.1:1/v1");
    assert_eq!(provider["models"]["worker"]["tool_call"], true);
}
