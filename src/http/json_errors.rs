//! Errors as JSON on every route: JSON-RPC errors at `/mcp`, a plain object elsewhere. Never an HTML page or bare text.
//!
//! In: a response. Out: the same, or its JSON form when it is an error in text.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::mcp::NO_SESSION_FREE;

/// JSON-RPC: the text is no JSON.
const PARSE_ERROR: i32 = -32_700;
/// JSON-RPC: JSON, but no request.
const INVALID_REQUEST: i32 = -32_600;
/// JSON-RPC: our own failure.
const INTERNAL_ERROR: i32 = -32_603;
/// MCP's range for servers: refused by the transport.
const REFUSED: i32 = -32_000;

/// An error of ours; becomes a JSON-RPC error at `/mcp`.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    (status, message.to_owned()).into_response()
}

/// Rewrites error texts to JSON.
pub(super) async fn rewrite(request: Request, next: Next) -> Response {
    let at_mcp = request.uri().path() == "/mcp";
    let response = next.run(request).await;
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
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
        let body = json!({"jsonrpc": "2.0", "id": null, "error": {"code": code, "message": text}});
        (status, body)
    } else {
        (status, json!({"error": text}))
    };
    parts.status = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        parts
            .headers
            .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    parts.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Response::from_parts(parts, Body::from(body.to_string()))
}

/// The right status and JSON-RPC code for an error text of the MCP transport.
fn classify(status: StatusCode, text: &str) -> (StatusCode, i32) {
    // rmcp answers 415 to a body that it cannot read, and 500 when there is no session to give.
    if text.starts_with("fail to deserialize request body") {
        let code = if text.contains("unrecognized JSON-RPC message") {
            INVALID_REQUEST
        } else {
            PARSE_ERROR
        };
        (StatusCode::BAD_REQUEST, code)
    } else if text.contains(NO_SESSION_FREE) {
        (StatusCode::SERVICE_UNAVAILABLE, REFUSED)
    } else if status.is_server_error() {
        (status, INTERNAL_ERROR)
    } else {
        (status, REFUSED)
    }
}
