//! Logs the bot in, once, and restores the session afterwards; sets encryption up when it is asked for.
//!
//! In: settings, the session file. Out: a client of the SDK with its store. A restored session needs no network.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chargehand_actors::ports::RoomError;
use matrix_sdk::authentication::matrix::MatrixSession;
use matrix_sdk::config::RequestConfig;
use matrix_sdk::encryption::{BackupDownloadStrategy, EncryptionSettings};
use matrix_sdk::ruma::{OwnedDeviceId, OwnedUserId};
use matrix_sdk::store::RoomLoadSettings;
use matrix_sdk::{Client, SessionMeta, SessionTokens};
use serde::{Deserialize, Serialize};

use super::fault;
use super::settings::{MatrixLogin, MatrixSettings};

/// How long one request may take; the stream has a limit of its own.
const TIMEOUT: Duration = Duration::from_secs(20);
const NAME: &str = "Chargehand";

/// What is kept of a login.
#[derive(Serialize, Deserialize)]
struct Kept {
    homeserver: String,
    /// Digest of the token or user that the login was made with: another one makes a new login.
    made_with: String,
    session: MatrixSession,
}

/// A client that is logged in.
///
/// # Errors
/// [`RoomError::Permanent`] when the settings cannot work, [`RoomError::LoginLost`] when the homeserver refuses the login.
pub(super) async fn connect(settings: &MatrixSettings) -> Result<Client, RoomError> {
    private_directory(&settings.store)?;
    let kept = read(settings);
    if kept.is_none() {
        // The SDK's store belongs to one device: a new login begins with an empty one.
        remove_store(&settings.store)?;
    }
    let client = build(settings).await?;
    match kept {
        Some(kept) => restore(&client, kept.session).await?,
        None => log_in(settings, &client).await?,
    }
    Ok(client)
}

async fn build(settings: &MatrixSettings) -> Result<Client, RoomError> {
    let builder = Client::builder()
        .homeserver_url(&settings.homeserver)
        .sqlite_store(settings.store.join("store"), None)
        .request_config(RequestConfig::new().timeout(TIMEOUT).disable_retry())
        .with_encryption_settings(EncryptionSettings {
            auto_enable_cross_signing: settings.encrypt,
            auto_enable_backups: settings.encrypt,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        });
    builder.build().await.map_err(|error| {
        RoomError::Transient(format!(
            "the Matrix store in {} cannot be opened, or {} is no homeserver address: {error}",
            settings.store.display(),
            settings.homeserver
        ))
    })
}

async fn restore(client: &Client, session: MatrixSession) -> Result<(), RoomError> {
    client
        .matrix_auth()
        .restore_session(session, RoomLoadSettings::default())
        .await
        .map_err(|error| fault::of(&error))
}

async fn log_in(settings: &MatrixSettings, client: &Client) -> Result<(), RoomError> {
    match &settings.login {
        MatrixLogin::Token(token) => {
            let meta = whoami(&settings.homeserver, &token.0).await?;
            let tokens = SessionTokens {
                access_token: token.0.clone(),
                refresh_token: None,
            };
            restore(client, MatrixSession { meta, tokens }).await?;
        }
        MatrixLogin::Password { user, password } => {
            client
                .matrix_auth()
                .login_username(user, &password.0)
                .initial_device_display_name(NAME)
                .send()
                .await
                .map_err(|error| match fault::of(&error) {
                    // A proxy before the homeserver knows no password.
                    RoomError::Permanent(why) if error.client_api_error_kind().is_none() => {
                        RoomError::Transient(why)
                    }
                    RoomError::Permanent(why) => RoomError::LoginLost(format!(
                        "the homeserver refuses the bot's user name or password ({why}); mend [matrix] and restart \
                         Chargehand. Tasks go on without rooms"
                    )),
                    other => other,
                })?;
        }
    }
    if let Some(session) = client.matrix_auth().session() {
        keep(settings, session)?;
    }
    Ok(())
}

/// Whose token this is.
async fn whoami(homeserver: &str, token: &str) -> Result<SessionMeta, RoomError> {
    #[derive(Deserialize)]
    struct Answer {
        user_id: OwnedUserId,
        device_id: Option<OwnedDeviceId>,
    }
    let transient = |error: reqwest::Error| RoomError::Transient(error.without_url().to_string());
    let address = format!(
        "{}/_matrix/client/v3/account/whoami",
        homeserver.trim_end_matches('/')
    );
    let answer = reqwest::Client::new()
        .get(address)
        .bearer_auth(token)
        .timeout(TIMEOUT)
        .send()
        .await
        .map_err(transient)?;
    if matches!(answer.status().as_u16(), 401 | 403) {
        return Err(RoomError::LoginLost(
            "the homeserver does not know the bot's access token (matrix.access_token); give it a new one and restart \
             Chargehand. Tasks go on without rooms"
                .to_owned(),
        ));
    }
    let answer = answer.error_for_status().map_err(transient)?;
    let answer: Answer = answer.json().await.map_err(transient)?;
    Ok(SessionMeta {
        user_id: answer.user_id,
        device_id: answer
            .device_id
            .unwrap_or_else(|| OwnedDeviceId::from("CHARGEHAND")),
    })
}

fn file(store: &Path) -> PathBuf {
    store.join("session.json")
}

/// What the login is made with, without its secret.
fn made_with(settings: &MatrixSettings) -> String {
    match &settings.login {
        MatrixLogin::Token(token) => {
            use sha1::Digest as _;
            let digest = sha1::Sha1::digest(token.0.as_bytes());
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("token {hex}")
        }
        MatrixLogin::Password { user, .. } => format!("user {user}"),
    }
}

fn read(settings: &MatrixSettings) -> Option<Kept> {
    let text = fs::read_to_string(file(&settings.store)).ok()?;
    let kept: Kept = serde_json::from_str(&text).ok()?;
    let same = kept.homeserver == settings.homeserver && kept.made_with == made_with(settings);
    same.then_some(kept)
}

/// The kept session is of no use any more: the next login is made with the password.
pub(super) fn forget(settings: &MatrixSettings) -> Result<(), RoomError> {
    match fs::remove_file(file(&settings.store)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(lost(&settings.store, &error))
        }
        _ => Ok(()),
    }
}

fn keep(settings: &MatrixSettings, session: MatrixSession) -> Result<(), RoomError> {
    let kept = Kept {
        homeserver: settings.homeserver.clone(),
        made_with: made_with(settings),
        session,
    };
    let text = serde_json::to_string(&kept).map_err(|error| lost(&settings.store, &error))?;
    write_private(&file(&settings.store), &text).map_err(|error| lost(&settings.store, &error))
}

/// Written beside and moved into place, for our own user alone.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(beside, path)
}

fn private_directory(path: &Path) -> Result<(), RoomError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| lost(path, &error))
}

fn remove_store(store: &Path) -> Result<(), RoomError> {
    match fs::remove_dir_all(store.join("store")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(lost(store, &error)),
        _ => Ok(()),
    }
}

fn lost(path: &Path, error: &dyn std::error::Error) -> RoomError {
    RoomError::Transient(format!("{} cannot be used: {error}", path.display()))
}
