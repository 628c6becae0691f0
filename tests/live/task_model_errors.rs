//! A model that refuses, limits, breaks or is not there: each task ends by itself and says why.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};

use crate::harness_product::{Product, Setup, turns};

/// A turn that answers with an HTTP error.
fn error(fault: Value) -> Value {
    turns(json!([{"error": fault, "text": "Recovered."}]))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_of_the_model_ends_or_heals() {
    let mut config = json!({});
    // A provider at a port where nobody listens (1 is never given out).
    config["enabled_providers"] = json!(["scripted", "dead"]);
    let setup = Setup {
        tasks: json!({"max_running": 8}),
        opencode_config: config,
        ..Setup::default()
    };
    let Some(product) = Product::start_with(setup, |config| {
        let mut dead = config["provider"]["scripted"].clone();
        dead["options"]["baseURL"] = json!("http://127.0.0.1:1/v1");
        config["provider"]["dead"] = dead;
    })
    .await
    else {
        return;
    };
    let body = |text: &str| json!({"error": {"message": text, "type": "t"}});
    let model_failure = |part: &'static str| ("failed", "model", part);
    let cases = [
        (
            error(json!({"status": 401, "body": body("the key is wrong")})),
            json!({}),
            model_failure("the key is wrong"),
        ),
        (
            error(json!({"status": 500, "body": body("the model is on fire")})),
            json!({}),
            model_failure("on fire"),
        ),
        (
            error(
                json!({"status": 429, "headers": {"retry-after": "2"}, "times": 1, "body": body("slow down")}),
            ),
            json!({}),
            ("completed", "", "Recovered."),
        ),
        (
            turns(json!([{"text": "never heard"}])),
            json!({"model": "dead/worker"}),
            model_failure("connect"),
        ),
        (
            turns(json!([{"text": "never heard"}])),
            json!({"model": "scripted/nonesuch"}),
            model_failure("nonesuch"),
        ),
        (
            turns(json!([{"text": "cut off", "cut": true}])),
            json!({}),
            ("failed", "watchdog", ""),
        ),
        (
            turns(json!([{"text": "too much", "finish": "length"}])),
            json!({}),
            model_failure("output limit"),
        ),
    ];
    let product = &product;
    let runs = cases
        .into_iter()
        .map(|(script, more, (status, kind, part))| async move {
            let shown = format!("{script} {more}");
            let id = product.client.submit(script, more).await;
            let seen = product.ended(&id, status).await;
            let told = if status == "completed" {
                &seen["output"]
            } else {
                &seen["error"]
            };
            let told = told.as_str().unwrap();
            assert!(
                told.to_lowercase().contains(&part.to_lowercase()),
                "{shown}: {told}"
            );
            if status == "failed" {
                assert_eq!(
                    (&seen["error_kind"], &seen["exit_code"]),
                    (&json!(kind), &json!(1)),
                    "{shown}: {seen:#}"
                );
            }
            println!("{shown}\n  -> {told}\n  after {} ms", seen["running_ms"]);
            (part, id)
        });
    let ended = futures_util::future::join_all(runs).await;
    let id_of = |wanted: &str| {
        ended
            .iter()
            .find(|(part, _)| *part == wanted)
            .map(|(_, id)| id)
            .unwrap()
    };
    for wanted in ["Recovered.", "on fire"] {
        assert!(
            product
                .client
                .has_event(id_of(wanted), "provider_retry")
                .await,
            "{wanted}"
        );
    }
    // The endless loop was ended, not only told: the model hears nothing more.
    let calls = product.model.requests().len();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(product.model.requests().len(), calls);
}
