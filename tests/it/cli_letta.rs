//! `chargehand letta register` where Letta, played by the test, takes no address of ours.
#![expect(clippy::unwrap_used, reason = "tests")]

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::cli_support::chargehand;

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_letta_refuses_is_explained_with_what_to_do() {
    let why = "private addresses are not allowed";
    let refuses = move || async move {
        let detail = json!({"detail": why});
        (StatusCode::UNPROCESSABLE_ENTITY, Json(detail))
    };
    let router = Router::new()
        .route(
            "/v1/health/",
            get(|| async { Json(json!({"version": "0.16.8", "status": "ok"})) }),
        )
        .route(
            "/v1/mcp-servers/",
            get(|| async { Json(json!([])) }).post(refuses),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let letta = format!("letta.url=http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let ours = "http://10.0.0.7:3500/mcp";
    let arguments = ["letta", "register", "--url", ours, "--set", &letta];
    let finished = chargehand(&arguments, "").await;
    assert_eq!(finished.code, Some(1), "{}", finished.err);
    for part in [ours, "422", why, "public DNS name", "or run Letta 0.16.6"] {
        assert!(finished.err.contains(part), "no {part:?}: {}", finished.err);
    }
    assert_eq!(finished.out, "");
}
