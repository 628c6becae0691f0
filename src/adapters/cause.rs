//! What an error of a library says at its end.
//!
//! In: an error with its causes. Out: the words of the innermost one, which say more than the outer ones ("certificate required" instead
//! of "client error") and hold no address with a password.

/// The words of the innermost cause.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
