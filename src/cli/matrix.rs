//! Rooms, put together from the settings.
//!
//! In: settings, the journal that remembers rooms, the data directory. Out: the port: a homeserver, or none.

use std::sync::Arc;

use chargehand_actors::id::InstanceId;
use chargehand_actors::ports::Rooms;

use crate::adapters::journal::SqliteJournal;
use crate::adapters::outward::NoRooms;
use crate::config::Settings;

/// Rooms on the homeserver; a build without them was refused by the settings.
#[cfg(feature = "matrix")]
pub(crate) fn rooms(
    settings: &Settings,
    journal: &SqliteJournal,
    directory: &std::path::Path,
    instance: &InstanceId,
) -> Arc<dyn Rooms> {
    let Some(matrix) = &settings.matrix else {
        return Arc::new(NoRooms);
    };
    let settings = matrix_settings(matrix, directory.join("matrix"), &instance.0);
    let memory = Arc::new(journal.clone());
    Arc::new(crate::adapters::matrix::MatrixRooms::new(settings, memory))
}

/// What the adapter needs.
#[cfg(feature = "matrix")]
pub(crate) fn matrix_settings(
    matrix: &crate::config::MatrixSettings,
    store: std::path::PathBuf,
    instance: &str,
) -> crate::adapters::matrix::MatrixSettings {
    use crate::adapters::matrix::{MatrixLogin, MatrixSettings, Password};

    let login = match (&matrix.access_token, &matrix.password, &matrix.user) {
        (None, Some(password), Some(user)) => MatrixLogin::Password {
            user: user.clone(),
            password: Password(password.expose().to_owned()),
        },
        (token, _, _) => MatrixLogin::Token(Password(
            token
                .as_ref()
                .map(|token| token.expose().to_owned())
                .unwrap_or_default(),
        )),
    };
    let rooms = &matrix.rooms;
    let people = rooms.owners.values().chain(&rooms.operators);
    let people: std::collections::BTreeSet<String> =
        people.chain(&rooms.observers).cloned().collect();
    MatrixSettings {
        homeserver: matrix.homeserver.clone(),
        login,
        store,
        instance: InstanceId(instance.to_owned()),
        encrypt: matrix.encrypt,
        space: matrix.space,
        observers_write: matrix.observers_write,
        people: people.into_iter().collect(),
    }
}

/// No rooms in this build.
#[cfg(not(feature = "matrix"))]
pub(crate) fn rooms(
    _settings: &Settings,
    _journal: &SqliteJournal,
    _directory: &std::path::Path,
    _instance: &InstanceId,
) -> Arc<dyn Rooms> {
    Arc::new(NoRooms)
}
