//! What an error of the homeserver or the SDK means for a room.
//!
//! In: errors of matrix-sdk. Out: [`RoomError`]. No error text holds a token: the SDK keeps them out of its messages.

use std::time::{Duration, SystemTime};

use chargehand_actors::ports::RoomError;
use matrix_sdk::ruma::api::error::{ErrorKind, RetryAfter};
use matrix_sdk::{Error, HttpError};

/// Where the homeserver does not say how long to wait.
const WAIT: Duration = Duration::from_secs(5);

/// Of any call.
pub(super) fn of(error: &Error) -> RoomError {
    named(error.client_api_error_kind(), error)
}

/// Of a bare request.
pub(super) fn of_http(error: &HttpError) -> RoomError {
    named(error.client_api_error_kind(), error)
}

fn named(kind: Option<&ErrorKind>, error: &dyn std::error::Error) -> RoomError {
    let text = error.to_string();
    match kind {
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
        _ => RoomError::Transient(text),
    }
}
