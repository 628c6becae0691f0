//! What an error of the homeserver or the SDK means for a room.
//!
//! In: errors of matrix-sdk. Out: [`RoomError`]. No error text holds a token: the SDK keeps them out of its messages.

use std::time::{Duration, SystemTime};

use chargehand_actors::ports::RoomError;
use matrix_sdk::ruma::api::error::{Error as ApiError, ErrorKind, RetryAfter};
use matrix_sdk::{Error, HttpError};

/// Where the homeserver does not say how long to wait.
const WAIT: Duration = Duration::from_secs(5);

/// Of any call.
pub(super) fn of(error: &Error) -> RoomError {
    named(error.as_client_api_error(), error)
}

/// Of a bare request.
pub(super) fn of_http(error: &HttpError) -> RoomError {
    named(error.as_client_api_error(), error)
}

fn named(said: Option<&ApiError>, error: &dyn std::error::Error) -> RoomError {
    let text = error.to_string();
    match said.and_then(ApiError::error_kind) {
        Some(ErrorKind::LimitExceeded(data)) => RoomError::Later(match data.retry_after {
            Some(RetryAfter::Delay(delay)) => delay,
            Some(RetryAfter::DateTime(at)) => at
                .duration_since(SystemTime::now())
                .unwrap_or(Duration::ZERO),
            None => WAIT,
        }),
        Some(ErrorKind::UnknownToken(_) | ErrorKind::MissingToken | ErrorKind::UserDeactivated) => {
            RoomError::LoginLost(format!(
                "the homeserver does not accept the bot's login any more ({text}); give it a new token or password and \
                 restart Chargehand. Tasks go on without rooms"
            ))
        }
        Some(
            ErrorKind::Forbidden
            | ErrorKind::TooLarge
            | ErrorKind::BadJson
            | ErrorKind::InvalidParam
            | ErrorKind::NotFound,
        ) => RoomError::Permanent(text),
        _ if said.is_some_and(|said| is_refusal(said.status_code.as_u16())) => {
            RoomError::Permanent(text)
        }
        _ => RoomError::Transient(text),
    }
}

/// Whether a status says by itself that the same request will be refused again: a proxy that finds a body too large or
/// forbids it answers without Matrix's words, and nothing behind a message must wait for such an answer to change.
const fn is_refusal(status: u16) -> bool {
    match status {
        // It is about the login, the moment or the pace. A proxy says 404 also while the homeserver behind it is away.
        401 | 404 | 408 | 425 | 429 => false,
        _ => status >= 400 && status < 500,
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
