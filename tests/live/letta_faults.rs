//! What goes wrong between Chargehand and a real classic Letta, and three defects of the original system, by their numbers.
//! Release 0.16.6 as it is; 0.16.8 with its check of addresses switched off by the start script (see `letta_classic`).
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, id_of, task, turns, wait_for};
use crate::letta_classic::{Classic, Release};
use crate::letta_loop::{letta, until};

async fn both(release: Release, more: Value) -> Option<(Classic, Product)> {
    let classic = Classic::start(release).await?;
    let setup = Setup {
        more: letta(&classic.url, more),
        ..Setup::default()
    };
    let product = Product::start(setup).await?;
    Some((classic, product))
}

/// The block of a task, once there is one that fits.
async fn block(classic: &Classic, task: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let tag = format!("oc-task:{task}");
    let blocks = until(
        what,
        || classic.tagged(&tag),
        |blocks| blocks.len() == 1 && fits(&blocks[0]),
    )
    .await;
    blocks.into_iter().next().unwrap()
}

fn says(block: &Value, text: &str) -> bool {
    block["value"].as_str().unwrap().contains(text)
}

/// No block of this Chargehand is left.
async fn no_block(classic: &Classic, product: &Product) {
    let tag = format!("oc-instance:{}", product.instance());
    until(
        "no block is left",
        || classic.tagged(&tag),
        |blocks| blocks.is_empty(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d8_the_history_is_there_when_the_memory_is_gone() {
    let Some((classic, product)) =
        both(Release::Last, json!({"grace_s": 1, "notify": "never"})).await
    else {
        return;
    };
    let agent = classic.agent("d8", &[]).await;
    let client = product.client.of_agent(&agent);
    let script = turns(json!([bash("sleep 2"), {"text": "all done"}]));
    let delegated = client
        .ok("opencode_execute_task", task(script, json!({})))
        .await;
    let id = id_of(&delegated);
    block(&classic, &id, "the memory is there", |_| true).await;
    until(
        "the prompt shows the task",
        || classic.prompt(&agent),
        |prompt| prompt.contains(&id),
    )
    .await;
    product.ended_saying(&id, "completed", "all done").await;
    no_block(&classic, &product).await;
    // What is gone is gone from the prompt too.
    until(
        "the prompt is without the task",
        || classic.prompt(&agent),
        |prompt| !prompt.contains(&id),
    )
    .await;
    let history = client
        .ok(
            "get_task_history",
            json!({"task_id": id, "include_artifacts": true}),
        )
        .await;
    assert_eq!(history["status"], "completed");
    assert!(history["artifacts"].to_string().contains("all done"));
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_an_output_larger_than_the_block_leaves_the_task_completed_and_the_memory_within_its_limit()
 {
    let more = json!({"format": "json", "block_limit": 5_000, "notify": "end"});
    let Some((classic, product)) = both(Release::Last, more).await else {
        return;
    };
    let agent = classic.agent("d9", &[]).await;
    let client = product.client.of_agent(&agent);
    let output = "\"<large>\" ".repeat(4_000);
    let script = turns(json!([{"text": output, "chunk": 4_000}]));
    let delegated = client
        .ok("opencode_execute_task", task(script, json!({})))
        .await;
    let id = id_of(&delegated);
    product.ended(&id, "completed").await;
    let block = block(&classic, &id, "the memory says so", |block| {
        let value: Value = serde_json::from_str(block["value"].as_str().unwrap()).unwrap();
        value["status"] == "completed"
    })
    .await;
    assert!(block["value"].as_str().unwrap().chars().count() <= 5_000);
    assert_eq!(block["label"], format!("opencode_workspace_{id}"));
    until(
        "one notice of success",
        async || json!(classic.model.prompts()).to_string(),
        |prompts| prompts.contains(&format!("{id} has ended: completed")),
    )
    .await;
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d10_nothing_is_lost_when_others_write_the_agents_memory_at_the_same_time() {
    let Some((classic, product)) = both(Release::Last, json!({"notify": "never"})).await else {
        return;
    };
    let agent = classic.agent("d10", &[]).await;
    let client = product.client.of_agent(&agent);
    let gate = product.directory.path().join("gate");
    let script = turns(
        json!([bash("echo one"), bash("echo two"), bash(&wait_for(&gate)), {"text": "three"}]),
    );
    let delegated = client
        .ok("opencode_execute_task", task(script, json!({})))
        .await;
    let id = id_of(&delegated);
    let made = block(&classic, &id, "the memory is there", |_| true).await;
    let url = format!("v1/blocks/{}", made["id"].as_str().unwrap());
    // Twelve others write the description of the same block as fast as they can.
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let at = Arc::new(format!("{}/{url}", classic.url));
    let conflicts = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let storm: Vec<_> = (0..12)
        .map(|writer| {
            let (http, at, conflicts) = (http.clone(), Arc::clone(&at), Arc::clone(&conflicts));
            tokio::spawn(async move {
                for round in 0.. {
                    let body = json!({"description": format!("{writer} {round}")});
                    if let Ok(answer) = http.patch(at.as_str()).json(&body).send().await
                        && answer.status() == 409
                    {
                        conflicts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    std::fs::write(&gate, "").unwrap();
    product.ended_saying(&id, "completed", "three").await;
    let told = block(&classic, &id, "the end is written in the storm", |block| {
        says(block, "status: completed")
    })
    .await;
    storm.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(
        conflicts.load(std::sync::atomic::Ordering::Relaxed) > 0,
        "no storm"
    );
    for event in ["echo one", "echo two", "result: three"] {
        assert!(says(&told, event), "{event}: {told:#}");
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_what_others_do_to_an_agent_or_a_block_does_not_touch_the_task() {
    let Some((classic, product)) = both(Release::Old, json!({"grace_s": 2, "notify": "end"})).await
    else {
        return;
    };
    let tag = format!("oc-instance:{}", product.instance());
    let begin = async |name: &str, agent: &str| {
        let gate = product.directory.path().join(name);
        let script = turns(json!([bash(&wait_for(&gate)), {"text": "done"}]));
        let client = product.client.of_agent(agent);
        let delegated = client
            .ok("opencode_execute_task", task(script, json!({})))
            .await;
        (id_of(&delegated), gate)
    };
    // The label is taken by a block of somebody else.
    let agent = classic.agent("taken", &[]).await;
    let (id, gate) = begin("taken", &agent).await;
    let first = block(&classic, &id, "the memory is there", |_| true).await;
    assert_eq!(first["label"], format!("oc_task_{}", &id[..8]));
    // Deleted by hand while the task runs: made again, once.
    let path = format!("blocks/{}", first["id"].as_str().unwrap());
    classic.ok(Method::DELETE, &path, None).await;
    let body = json!({"label": first["label"], "value": "not ours"});
    let other = classic.ok(Method::POST, "blocks/", Some(body)).await;
    let other = other["id"].as_str().unwrap();
    let attach = format!("agents/{agent}/core-memory/blocks/attach/{other}");
    classic.ok(Method::PATCH, &attach, None).await;
    std::fs::write(&gate, "").unwrap();
    let again = block(&classic, &id, "the memory is made again", |block| {
        says(block, "status: completed")
    })
    .await;
    assert_eq!(again["label"], format!("oc_task_{}_2", &id[..8]));
    product.ended_saying(&id, "completed", "done").await;
    // The agent is deleted while its task runs.
    let gone = classic.agent("gone", &[]).await;
    let (id, gate) = begin("gone", &gone).await;
    block(&classic, &id, "the memory is there", |_| true).await;
    classic
        .ok(Method::DELETE, &format!("agents/{gone}"), None)
        .await;
    std::fs::write(&gate, "").unwrap();
    product.ended_saying(&id, "completed", "done").await;
    // There never was such an agent.
    let nobody = format!("agent-{}", uuid::Uuid::new_v4());
    let (id, gate) = begin("nobody", &nobody).await;
    std::fs::write(&gate, "").unwrap();
    product.ended_saying(&id, "completed", "done").await;
    until(
        "no block is left",
        || classic.tagged(&tag),
        |blocks| blocks.is_empty(),
    )
    .await;
    let untouched = classic
        .ok(Method::GET, &format!("blocks/{other}"), None)
        .await;
    assert_eq!(untouched["value"], "not ours");
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_that_is_down_delays_no_task_and_is_told_of_it_later() {
    let Some((mut classic, product)) = both(Release::Old, json!({"notify": "end"})).await else {
        return;
    };
    let agent = classic.agent("down", &[]).await;
    classic.freeze();
    let client = product.client.of_agent(&agent);
    let script = turns(json!([bash("true"), {"text": "done"}]));
    let begun = Instant::now();
    let delegated = client
        .ok("opencode_execute_task", task(script, json!({})))
        .await;
    let id = id_of(&delegated);
    product.ended_saying(&id, "completed", "done").await;
    eprintln!("ended after {:?} without Letta", begun.elapsed());
    classic.thaw();
    block(&classic, &id, "the memory says the end", |block| {
        says(block, "status: completed")
    })
    .await;
    until(
        "the agent is told",
        async || classic.model.prompts(),
        |prompts| {
            prompts
                .iter()
                .any(|one| one.to_string().contains(&format!("{id} has ended")))
        },
    )
    .await;
    product.stop().await;
}
