//! `[matrix]`: rooms in which people watch tasks and steer them.
//!
//! In: the reader. Out: [`MatrixSettings`] when it is enabled; asked for in a build without it is a problem, never silence.

use std::collections::BTreeMap;
use std::time::Duration;

use chargehand_actors::tree::RoomSettings;

use toml::Value;

use super::reader::Reader;
use super::shown::{Values, list, number, text};
use super::{REDACTED, Secret};

/// Whether this program has Matrix rooms built in.
pub(super) const BUILT_IN: bool = cfg!(feature = "matrix");

/// `[matrix]`, when it is enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixSettings {
    /// Base address of the homeserver's client API.
    pub homeserver: String,
    /// The bot's Matrix id or user name, for a login by password.
    pub user: Option<String>,
    /// An access token that exists already.
    pub access_token: Option<Secret>,
    /// The bot's password, used once.
    pub password: Option<Secret>,
    /// Rooms are encrypted.
    pub encrypt: bool,
    /// A space holds all rooms; its members may join them.
    pub space: bool,
    /// Who only watches may write, too.
    pub observers_write: bool,
    /// Who may do what, and how long rooms are kept.
    pub rooms: RoomSettings,
}

impl MatrixSettings {
    /// For a person: each setting with its value, secrets replaced.
    pub(super) fn show(&self, values: &mut Values) {
        let Self {
            homeserver,
            user,
            access_token,
            password,
            encrypt,
            space,
            observers_write,
            rooms,
        } = self;
        let RoomSettings {
            owners,
            operators,
            observers,
            allowed,
            in_space: _,
            keep,
        } = rooms;
        let owners = owners
            .iter()
            .map(|(caller, user)| (caller.clone(), text(user)));
        values.extend([
            ("matrix.homeserver_url", text(homeserver)),
            ("matrix.encrypt_rooms", Value::Boolean(*encrypt)),
            ("matrix.space", Value::Boolean(*space)),
            (
                "matrix.observers_may_write",
                Value::Boolean(*observers_write),
            ),
            ("matrix.owners", Value::Table(owners.collect())),
            ("matrix.operators", list(operators)),
            ("matrix.observers", list(observers)),
            ("matrix.allowed", list(allowed)),
            ("matrix.keep_rooms_days", number(keep.as_secs() / 86_400)),
        ]);
        if let Some(user) = user {
            values.insert("matrix.user_id", text(user));
        }
        for (name, secret) in [
            ("matrix.access_token", access_token),
            ("matrix.password", password),
        ] {
            if secret.is_some() {
                values.insert(name, text(REDACTED));
            }
        }
    }
}

pub(super) fn matrix(reader: &mut Reader) -> Option<MatrixSettings> {
    let enabled = reader.flag("matrix.enabled", false);
    let homeserver = reader.parsed::<url::Url>(
        "matrix.homeserver_url",
        "the address of the homeserver, such as https://matrix.example.org",
    );
    let homeserver = homeserver.filter(|url| {
        let bare = url.username().is_empty() && url.password().is_none();
        let sound = matches!(url.scheme(), "http" | "https") && bare;
        if !sound {
            reader.problem(
                "matrix.homeserver_url",
                "is no web address without credentials",
                "http:// or https://, with the login in matrix.access_token or matrix.user_id and matrix.password",
            );
        }
        sound
    });
    let user = reader.text("matrix.user_id");
    let access_token = reader.secret("matrix.access_token", "matrix.access_token_file");
    let password = reader.secret("matrix.password", "matrix.password_file");
    let encrypt = reader.flag("matrix.encrypt_rooms", false);
    let space = reader.flag("matrix.space", true);
    let observers_write = reader.flag("matrix.observers_may_write", false);
    let rooms = rooms(reader, space);
    if !enabled {
        return None;
    }
    if !BUILT_IN {
        let theirs = reader.variable("MATRIX_ENABLED").as_deref() == Some("true");
        reader.problem(
            if theirs { "MATRIX_ENABLED" } else { "matrix.enabled" },
            "is true, and this program was built without Matrix rooms",
            "a build with `--features matrix` (the container image has it), or false: `chargehand tasks`, `logs -f` and \
             `cancel` are the other way to look on and step in",
        );
        return None;
    }
    if homeserver.is_none() {
        reader.problem(
            "matrix.homeserver_url",
            "is missing, and matrix.enabled is true",
            "the address of the homeserver",
        );
    }
    match (&access_token, &password) {
        (Some(_), Some(_)) => reader.problem(
            "matrix.password",
            "is given together with matrix.access_token",
            "one of them",
        ),
        (None, None) => reader.problem(
            "matrix.access_token",
            "is missing, and matrix.enabled is true",
            "matrix.access_token (or access_token_file), or matrix.user_id with matrix.password (or password_file)",
        ),
        (None, Some(_)) if user.is_none() => reader.problem(
            "matrix.user_id",
            "is missing, and matrix.password is given",
            "the bot's Matrix id, such as @chargehand:example.org",
        ),
        (Some(_), None) if encrypt => reader.problem(
            "matrix.encrypt_rooms",
            "is true, and the bot logs in by token: it cannot sign its own device then",
            "matrix.user_id with matrix.password",
        ),
        (Some(_), None) | (None, Some(_)) => {}
    }
    Some(MatrixSettings {
        homeserver: homeserver?.to_string(),
        user,
        access_token,
        password,
        encrypt,
        space,
        observers_write,
        rooms,
    })
}

fn rooms(reader: &mut Reader, space: bool) -> RoomSettings {
    let operators = ids(reader, "matrix.operators");
    let observers = ids(reader, "matrix.observers");
    let allowed = ids(reader, "matrix.allowed");
    let mut owners = BTreeMap::new();
    for (caller, user) in reader.table("matrix.owners") {
        match user.as_str().filter(|user| is_id(user)) {
            Some(user) => {
                owners.insert(caller, user.to_owned());
            }
            None => reader.problem(
                format!("matrix.owners.\"{caller}\""),
                "is no Matrix id",
                "\"token\" = \"@user:server\" or \"token/agent\" = \"@user:server\"",
            ),
        }
    }
    let days = reader.number("matrix.keep_rooms_days", 0..=36_500, 7);
    RoomSettings {
        owners,
        operators,
        observers,
        allowed,
        in_space: space,
        keep: Duration::from_secs(days * 86_400),
    }
}

fn ids(reader: &mut Reader, path: &'static str) -> Vec<String> {
    let all = reader.list(path);
    for id in all.iter().filter(|id| !is_id(id)) {
        reader.problem(
            path,
            format!("contains \"{id}\""),
            "Matrix ids, such as @anna:example.org",
        );
    }
    all
}

fn is_id(text: &str) -> bool {
    text.strip_prefix('@')
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(name, server)| !name.is_empty() && !server.is_empty())
}
