//! The audit log: refused calls and failed authentications, as they are written, without secrets.

use std::io::Write;
use std::sync::{Arc, Mutex};

use chargehand::config::TokenRole;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use super::server::{Server, token};
use super::wrong_calls::TASK;

const ANN: &str = "ann-0123456789abcdef";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// The lines of target `audit`, without their time.
    fn audit(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        assert!(
            !text.contains("0123456789abcdef"),
            "a token was written: {text}"
        );
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|line| line["target"] == "audit")
            .map(|line| line["fields"].clone())
            .collect()
    }
}

// One thread, so that the subscriber of this test sees what the server does.
#[tokio::test]
async fn refusals_and_strangers_are_written() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(log.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let server = Server::with(|settings| {
        let mut ann = token("ann", ANN, TokenRole::Caller);
        ann.agents = vec!["a".to_owned()];
        ann.limits.calls_per_minute = Some(3);
        settings.auth.tokens = vec![ann];
    })
    .await;
    let ann = server.as_token(ANN);
    ann.ok("ping", json!({})).await;
    ann.refused("get_task_status", json!({"task_id": TASK}))
        .await;
    ann.refused("send_task_control", json!({"task_id": "x\ny"}))
        .await;
    ann.refused("ping", json!({})).await;
    let refused = json!({"message": "refused", "who": "ann/a", "from": "mcp 127.0.0.1"});
    let with = |tool: &str, task: &str, code: &str| {
        let mut line = refused.clone();
        line["tool"] = json!(tool);
        line["task"] = json!(task);
        line["code"] = json!(code);
        line
    };
    let expected = [
        with("get_task_status", TASK, "TASK_NOT_FOUND"),
        with("send_task_control", "", "INVALID_ARGUMENT"),
        with("ping", "", "RATE_LIMITED"),
    ];
    assert_eq!(log.audit(), expected);

    for number in 0..30 {
        let wrong = format!("wrong{number}-0123456789abcdef");
        let stranger = server.as_token(&wrong);
        let request = stranger.request("tools/list", json!({}));
        assert_eq!(request.send().await.unwrap().status().as_u16(), 401);
    }
    let lines = log.audit();
    let strangers = lines.get(expected.len()..).unwrap();
    assert_eq!(strangers.len(), 10, "a flood is not written: {strangers:?}");
    assert_eq!(
        strangers[0],
        json!({"message": "authentication failed", "from": "127.0.0.1", "path": "/mcp",
            "why": "unknown token", "left_out": 0})
    );
    server.stop().await;
}
