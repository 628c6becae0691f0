//! Errors as JSON on every route: JSON-RPC errors at `/mcp`, a plain object elsewhere. Never an HTML page or bare text.
//!
//! In: a response. Out: the same, or its JSON form when it is an error in text. An ended session is answered 204.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;

use crate::mcp::{NO_SESSION_FREE, NO_SESSION_LEFT};

/// JSON-RPC: the text is no JSON.
const PARSE_ERROR: i32 = -32_700;
/// JSON-RPC: JSON, but no request.
const INVALID_REQUEST: i32 = -32_600;
/// JSON-RPC: our own failure.
const INTERNAL_ERROR: i32 = -32_603;
/// MCP's range for servers: refused by the transport.
const REFUSED: i32 = -32_000;

/// How rmcp begins to tell that it cannot read a body.
const UNREADABLE: &str = "fail to deserialize request body";
/// What it says of JSON that is no JSON-RPC message.
const NO_MESSAGE: &str = "unrecognized JSON-RPC message";

/// An error of ours; becomes a JSON-RPC error at `/mcp`.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    (status, message.to_owned()).into_response()
}

/// Rewrites error texts to JSON.
pub(super) async fn rewrite(request: Request, next: Next) -> Response {
    let at_mcp = request.uri().path() == "/mcp";
    let ends_session = at_mcp && request.method() == Method::DELETE;
    let mut response = next.run(request).await;
    // The Python SDK (and so Letta) takes rmcp's 202 for a failure and warns at the end of every session.
    if ends_session && response.status() == StatusCode::ACCEPTED {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        come_back(status, response.headers_mut());
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = match to_bytes(body, 16 * 1024).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    };
    let text = if text.is_empty() {
        status.canonical_reason().unwrap_or("error").to_owned()
    } else {
        text
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    let (status, body) = if at_mcp {
        let (status, code) = classify(status, &text);
        let text = plain(text);
        let body = json!({"jsonrpc": "2.0", "id": null, "error": {"code": code, "message": text}});
        (status, body)
    } else {
        (status, json!({"error": text}))
    };
    parts.status = status;
    come_back(status, &mut parts.headers);
    parts.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Response::from_parts(parts, Body::from(body.to_string()))
}

/// What is not possible now may be in a few seconds.
fn come_back(status: StatusCode, headers: &mut HeaderMap) {
    if matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
}

/// The right status and JSON-RPC code for an error text of the MCP transport.
fn classify(status: StatusCode, text: &str) -> (StatusCode, i32) {
    // rmcp answers 415 to a body that it cannot read, and 500 when there is no session to give.
    if text.starts_with(UNREADABLE) {
        let code = if text.contains(NO_MESSAGE) {
            INVALID_REQUEST
        } else {
            PARSE_ERROR
        };
        (StatusCode::BAD_REQUEST, code)
    } else if text.contains(NO_SESSION_LEFT) {
        (StatusCode::TOO_MANY_REQUESTS, REFUSED)
    } else if text.contains(NO_SESSION_FREE) {
        (StatusCode::SERVICE_UNAVAILABLE, REFUSED)
    } else if status.is_server_error() {
        (status, INTERNAL_ERROR)
    } else {
        (status, REFUSED)
    }
}

/// What rmcp says of a broken request, with what it means and what to do.
fn plain(text: String) -> String {
    if let Some(why) = text.strip_prefix(UNREADABLE) {
        let why = why.trim();
        if why.contains(NO_MESSAGE) {
            return "the body is JSON, but no JSON-RPC 2.0 message: that is one object with \"jsonrpc\": \"2.0\", a method, an id \
                    (a text or a whole number) and params (an object). Lists of messages (batches) are not served; send each in a \
                    request of its own. Nothing was done"
                .to_owned();
        }
        return format!("the body is no JSON that can be read: {why}. Nothing was done");
    }
    if text.contains("no response message received from handler") {
        return "Chargehand stopped before this call was answered; its log says why. A command may have taken effect: when it \
                runs again, look with list_tasks or get_task_status before you repeat it (an idempotency_key makes the repeat of \
                opencode_execute_task safe)"
            .to_owned();
    }
    let advice = if text.contains("Session ID is required") {
        "send initialize first and repeat the Mcp-Session-Id of its answer in every request, or speak protocol 2026-07-28, \
         which has no sessions. Nothing was done"
    } else if text.contains("Session not found") {
        "it was closed, or Chargehand was restarted; send initialize for a new one. Tasks are not affected"
    } else if text.contains("Unsupported MCP-Protocol-Version") {
        "this server speaks 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25 and 2026-07-28. Nothing was done"
    } else {
        return text;
    };
    format!("{text}; {advice}")
}
