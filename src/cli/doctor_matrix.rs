//! What `doctor` says about Matrix rooms: the homeserver, the login, the limits, the store.
//!
//! In: the settings, and a survey of the homeserver. Out: one [`Check`] each, with how to mend it.

use std::path::Path;

use super::doctor::{Check, State};
use super::matrix::matrix_settings;
use crate::adapters::matrix::{MatrixSurvey, survey};
use crate::config::{MatrixSettings, Settings};

/// Every check of the rooms.
pub(crate) async fn matrix(settings: &Settings, matrix: &MatrixSettings) -> Vec<Check> {
    let store = settings.data.dir.join("matrix");
    let found = survey(&matrix_settings(matrix, store.clone(), "doctor")).await;
    let mut checks = judge(&found);
    checks.push(kept(&store));
    checks
}

fn judge(found: &MatrixSurvey) -> Vec<Check> {
    let mut checks = Vec::new();
    match &found.version {
        Some(Ok(version)) => checks.push(Check::ok(
            "homeserver",
            format!("answers, client API {version}"),
        )),
        Some(Err(why)) => {
            checks.push(Check::bad(
                "homeserver",
                State::Warn,
                format!("does not answer: {why}"),
                "check matrix.homeserver_url and that the homeserver runs; tasks run without it, rooms are told later",
            ));
            return checks;
        }
        None => {}
    }
    match &found.user {
        Some(Ok(user)) => checks.push(Check::ok("matrix login", format!("as {user}"))),
        Some(Err(why)) => checks.push(Check::bad(
            "matrix login",
            State::Fail,
            format!("the access token is refused ({why})"),
            "give matrix.access_token (or access_token_file) a token that is valid",
        )),
        None => checks.push(Check::ok("matrix login", "by password, tried at the start")),
    }
    let user = match &found.user {
        Some(Ok(user)) => user.as_str(),
        _ => "@bot:server",
    };
    match found.exempt {
        Some(true) => checks.push(Check::ok("matrix limits", "the bot is exempt")),
        exempt => checks.push(Check::bad(
            "matrix limits",
            State::Warn,
            if exempt.is_none() {
                "not known; by default Synapse lets an account send one event in five seconds, for all rooms together"
            } else {
                "the bot is limited as every user is"
            },
            format!(
                "as an administrator of a Synapse: curl -X POST -H \"Authorization: Bearer ADMIN_TOKEN\" \
                 HOMESERVER/_synapse/admin/v1/users/{user}/override_ratelimit -d '{{\"messages_per_second\": 0, \
                 \"burst_count\": 0}}'; without it rooms are told later and less often"
            ),
        )),
    }
    checks
}

/// The session and the store, where there are any yet.
fn kept(store: &Path) -> Check {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::metadata(store) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Check::bad(
            "matrix store",
            State::Warn,
            format!("{} can be read by others", store.display()),
            format!("chmod 700 {}", store.display()),
        ),
        Ok(_) => Check::ok("matrix store", store.display().to_string()),
        Err(_) => Check::ok("matrix store", "made at the first start"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(found: &MatrixSurvey) -> Vec<(&'static str, State)> {
        judge(found)
            .iter()
            .map(|check| (check.name, check.state))
            .collect()
    }

    #[test]
    fn each_thing_that_is_wrong_says_how_to_mend_it() {
        let good = MatrixSurvey {
            version: Some(Ok("v1.15".to_owned())),
            user: Some(Ok("@bot:x".to_owned())),
            exempt: Some(true),
        };
        assert!(states(&good).iter().all(|(_, state)| *state == State::Ok));
        let away = MatrixSurvey {
            version: Some(Err("refused".to_owned())),
            ..MatrixSurvey::default()
        };
        assert_eq!(states(&away), [("homeserver", State::Warn)]);
        let wrong = MatrixSurvey {
            user: Some(Err("401".to_owned())),
            exempt: None,
            ..good
        };
        assert_eq!(
            states(&wrong),
            [
                ("homeserver", State::Ok),
                ("matrix login", State::Fail),
                ("matrix limits", State::Warn)
            ]
        );
        assert!(
            judge(&wrong)
                .iter()
                .all(|check| check.state == State::Ok || !check.mend.is_empty())
        );
    }
}
