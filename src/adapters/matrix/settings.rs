//! Where the homeserver is and as whom the bot speaks. Plain data.
//!
//! In: values that the configuration has checked. Out: the adapter's settings; secrets are never printed.

use std::fmt;
use std::path::PathBuf;

use chargehand_actors::id::InstanceId;

/// A secret; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("«redacted»")
    }
}

/// How the bot logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatrixLogin {
    /// With an access token that exists already.
    Token(Password),
    /// With user name (or Matrix id) and password, once; the session is kept.
    Password {
        /// User.
        user: String,
        /// Password.
        password: Password,
    },
}

/// Everything that the adapter needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixSettings {
    /// Base address of the client API.
    pub homeserver: String,
    /// How to log in.
    pub login: MatrixLogin,
    /// Directory of the session, the SDK's store and the recovery key; made with rights for our user alone.
    pub store: PathBuf,
    /// Whose rooms these are: part of the space's alias.
    pub instance: InstanceId,
    /// Rooms are encrypted.
    pub encrypt: bool,
    /// A space holds the rooms, and its members may join them.
    pub space: bool,
    /// Members without the power to steer may write.
    pub observers_write: bool,
    /// Invited to the space.
    pub people: Vec<String>,
}
