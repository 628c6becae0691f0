//! What `doctor` asks the homeserver: does it answer, as whom would the bot speak, how much may it send.
//!
//! In: settings. Out: a [`MatrixSurvey`]; nothing is logged in, sent or kept.

use std::time::Duration;

use reqwest::Client;
use serde_json::Value;

use super::settings::{MatrixLogin, MatrixSettings};

/// How long each question may take.
const WITHIN: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatrixSurvey {
    /// The newest version of the client API; or why the homeserver does not answer.
    pub version: Option<Result<String, String>>,
    /// The bot's Matrix id; or why the login is refused. None for a password, which is tried at the start alone.
    pub user: Option<Result<String, String>>,
    /// Whether the bot is exempt from limits, where the homeserver tells.
    pub exempt: Option<bool>,
}

/// Asks.
pub async fn survey(settings: &MatrixSettings) -> MatrixSurvey {
    let http = Client::new();
    let base = settings.homeserver.trim_end_matches('/');
    let versions = get(&http, &format!("{base}/_matrix/client/versions"), None).await;
    let version = versions.map(|(_, body)| {
        let newest = body["versions"].as_array().and_then(|all| all.last());
        newest
            .and_then(Value::as_str)
            .unwrap_or("unknown")
            .to_owned()
    });
    let mut survey = MatrixSurvey {
        version: Some(version),
        ..MatrixSurvey::default()
    };
    let MatrixLogin::Token(token) = &settings.login else {
        return survey;
    };
    let address = format!("{base}/_matrix/client/v3/account/whoami");
    let user = match get(&http, &address, Some(&token.0)).await {
        Ok((200, body)) => Ok(body["user_id"].as_str().unwrap_or_default().to_owned()),
        Ok((status, body)) => Err(format!(
            "{status}: {}",
            body["error"].as_str().unwrap_or_default()
        )),
        Err(why) => Err(why),
    };
    if let Ok(user) = &user {
        // Only an administrator of a Synapse is told.
        let address = format!("{base}/_synapse/admin/v1/users/{user}/override_ratelimit");
        if let Ok((200, body)) = get(&http, &address, Some(&token.0)).await {
            survey.exempt = Some(body["messages_per_second"] == 0);
        }
    }
    survey.user = Some(user);
    survey
}

async fn get(http: &Client, address: &str, token: Option<&str>) -> Result<(u16, Value), String> {
    let mut request = http.get(address).timeout(WITHIN);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request
        .send()
        .await
        .map_err(|error| error.without_url().to_string())?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.unwrap_or(Value::Null)))
}
