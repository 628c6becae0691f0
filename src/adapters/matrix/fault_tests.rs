#![expect(clippy::unwrap_used, reason = "tests")]

use matrix_sdk::HttpError;
use matrix_sdk::ruma::api::EndpointError as _;
use matrix_sdk::ruma::api::client::uiaa::UiaaResponse;
use matrix_sdk::ruma::api::error::FromHttpResponseError;

use super::*;

/// What an answer with this status and body means.
fn answered(status: u16, body: &str) -> RoomError {
    let mut answer = http::Response::new(body.as_bytes().to_vec());
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
    let said = UiaaResponse::from_http_response(answer);
    let error = HttpError::Api(Box::new(FromHttpResponseError::Server(said)));
    let bare = of_http(&error);
    assert_eq!(of(&Error::from(error)), bare, "{status} {body}");
    bare
}

fn kind(word: &str) -> String {
    format!(r#"{{"errcode": "{word}", "error": "because"}}"#)
}

#[test]
fn a_refusal_in_words_that_are_not_matrixs_is_for_good() {
    let page = "<html><body><h1>413 Request Entity Too Large</h1></body></html>";
    for status in [400, 403, 405, 413, 414, 422] {
        for body in [page, "", "{}", &kind("M_UNKNOWN"), &kind("ORG.EXAMPLE_NO")] {
            let error = answered(status, body);
            assert!(
                matches!(error, RoomError::Permanent(_)),
                "{status} {body}: {error:?}"
            );
        }
    }
}

#[test]
fn what_may_be_otherwise_later_is_tried_again() {
    for status in [401, 404, 408, 425, 429, 500, 502, 503, 504, 520] {
        for body in ["<html></html>", "", &kind("M_UNKNOWN")] {
            let error = answered(status, body);
            assert!(
                matches!(error, RoomError::Transient(_)),
                "{status} {body}: {error:?}"
            );
        }
    }
}

#[test]
fn a_known_kind_decides_before_the_status() {
    for (status, word) in [
        (403, "M_FORBIDDEN"),
        (404, "M_NOT_FOUND"),
        (413, "M_TOO_LARGE"),
        (500, "M_BAD_JSON"),
    ] {
        let error = answered(status, &kind(word));
        assert!(
            matches!(error, RoomError::Permanent(_)),
            "{word}: {error:?}"
        );
    }
    for word in ["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"] {
        let error = answered(401, &kind(word));
        assert!(
            matches!(error, RoomError::LoginLost(_)),
            "{word}: {error:?}"
        );
    }
    let limited = r#"{"errcode": "M_LIMIT_EXCEEDED", "error": "slowly", "retry_after_ms": 1500}"#;
    assert_eq!(
        answered(429, limited),
        RoomError::Later(Duration::from_millis(1_500))
    );
}
