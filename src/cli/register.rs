//! `chargehand letta register`: makes a classic Letta server know this Chargehand as an MCP server, and gives agents its tools.
//!
//! In: the settings of `[letta]`, the address by which Letta reaches us, agents. Out: the MCP server entry made or brought up to
//! date, its tools attached. For an App Server, which keeps its MCP servers in a file of its own, what to write there.

use chargehand_actors::ports::PlannerError;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{GlobalArgs, RegisterArgs};
use super::client::bearer;
use super::config::settings;
use super::error::{CliError, Exit};
use super::terminal::{print, print_json};
use crate::adapters::letta::{Answer, Rest, Token};
use crate::config::LettaKind;

/// What was done.
#[derive(Debug, Serialize)]
struct Registered {
    /// Letta's id of the MCP server.
    mcp_server_id: String,
    /// Whether it was there before.
    updated: bool,
    /// Names of its tools.
    tools: Vec<String>,
    /// Agents that have them now.
    agents: Vec<String>,
}

/// Does it.
pub(super) async fn register(global: &GlobalArgs, args: &RegisterArgs) -> Result<Exit, CliError> {
    let settings = settings(&args.config, std::collections::BTreeMap::new())?;
    let Some(letta) = &settings.letta else {
        return Err(CliError::Usage(
            "no Letta is configured; set letta.url (and letta.token_file where it asks for a token)".to_owned(),
        ));
    };
    // The token that Letta's agents shall speak with, not the one for Letta itself.
    let ours = bearer(global)?;
    let socket = letta.url.scheme().starts_with("ws");
    if letta.kind == LettaKind::AppServer || socket {
        return explain_app_server(&args.url, ours.is_some(), global.json);
    }
    let token = letta.token.as_ref().map(|token| Token::new(token.expose()));
    let rest = Rest::new(&letta.url, token).map_err(failed)?;
    let health = call(&rest, Method::GET, "v1/health/", None).await?;
    if !health.body["version"].is_string() {
        return explain_app_server(&args.url, ours.is_some(), global.json);
    }
    let registered = classic(&rest, args, ours.as_deref()).await?;
    if global.json {
        print_json(&registered)?;
    } else {
        let done = if registered.updated {
            "brought up to date"
        } else {
            "made"
        };
        print(&format!(
            "MCP server {} ({}) {done}: {} tools\nagents that have them now: {}\n",
            args.name,
            registered.mcp_server_id,
            registered.tools.len(),
            if registered.agents.is_empty() {
                "none was named (--agent)".to_owned()
            } else {
                registered.agents.join(", ")
            }
        ))?;
    }
    Ok(Exit::Ok)
}

async fn classic(
    rest: &Rest,
    args: &RegisterArgs,
    ours: Option<&str>,
) -> Result<Registered, CliError> {
    let mut config = json!({"mcp_server_type": "streamable_http", "server_url": args.url});
    if let Some(ours) = ours {
        config["auth_header"] = json!("Authorization");
        config["auth_token"] = json!(format!("Bearer {ours}"));
    }
    let entry = json!({"server_name": args.name, "config": config});
    let known = call(rest, Method::GET, "v1/mcp-servers/", None).await?;
    let known = known.ok("list its MCP servers").map_err(failed)?;
    let mut known = known.as_array().into_iter().flatten();
    let known = known.find(|server| server["server_name"] == args.name.as_str());
    let known = known.and_then(|server| server["id"].as_str());
    let answer = match known {
        Some(id) => {
            let path = format!("v1/mcp-servers/{id}");
            call(rest, Method::PATCH, &path, Some(&entry)).await?
        }
        None => call(rest, Method::POST, "v1/mcp-servers/", Some(&entry)).await?,
    };
    if answer.status == 422 {
        return Err(refused_address(&args.url, &answer));
    }
    let answer = answer.ok("take the MCP server").map_err(failed)?;
    let id = known
        .or_else(|| answer["id"].as_str())
        .unwrap_or_default()
        .to_owned();
    if known.is_some() {
        let path = format!("v1/mcp-servers/{id}/refresh");
        let answer = call(rest, Method::PATCH, &path, None).await?;
        answer.ok("ask Chargehand for its tools").map_err(failed)?;
    }
    let path = format!("v1/mcp-servers/{id}/tools");
    let tools = call(rest, Method::GET, &path, None).await?;
    let tools = tools.ok("list the tools").map_err(failed)?;
    let tools: Vec<&Value> = tools.as_array().into_iter().flatten().collect();
    if tools.is_empty() {
        return Err(CliError::Server(format!(
            "Letta found no tools at {}: it must be reachable from the Letta server, end with /mcp, and take the token given with --token-file",
            args.url
        )));
    }
    for agent in &args.agents {
        for tool in tools.iter().filter_map(|tool| tool["id"].as_str()) {
            let path = format!("v1/agents/{agent}/tools/attach/{tool}");
            let answer = call(rest, Method::PATCH, &path, None).await?;
            let what = format!("give {agent} the tools");
            answer.ok(&what).map_err(failed)?;
        }
    }
    let name = |tool: &&Value| tool["name"].as_str().map(str::to_owned);
    Ok(Registered {
        mcp_server_id: id,
        updated: known.is_some(),
        tools: tools.iter().filter_map(name).collect(),
        agents: args.agents.clone(),
    })
}

/// From 0.16.7 on Letta speaks to no private address and has no setting for it.
fn refused_address(url: &str, answer: &Answer) -> CliError {
    CliError::Server(format!(
        "Letta refuses {url} as the address of an MCP server (422): {}. From 0.16.7 on it refuses loopback and private \
         addresses and has no setting for it: give Chargehand an address with a public DNS name (a reverse proxy with TLS, \
         and a token in [auth]), or run Letta 0.16.6",
        answer.detail()
    ))
}

/// What to write where an App Server's agents find their MCP servers.
fn explain_app_server(url: &str, token: bool, as_json: bool) -> Result<Exit, CliError> {
    let mut headers =
        json!({"X-Agent-Id": "${AGENT_ID}", "X-Conversation-Id": "${CONVERSATION_ID}"});
    if token {
        headers["Authorization"] = json!("Bearer ${CHARGEHAND_TOKEN}");
    }
    let servers =
        json!([{"name": "chargehand", "transport": "http", "url": url, "headers": headers}]);
    if as_json {
        print_json(&json!({"mcpServers": servers}))?;
        return Ok(Exit::Ok);
    }
    let text = serde_json::to_string_pretty(&servers).unwrap_or_default();
    print(&format!(
        "Letta Code keeps MCP servers with each agent, on its own machine. Add this with /mcp in its terminal, or as the agent's \
         \"mcpServers\" in ~/.letta/settings.json:\n{text}\n"
    ))?;
    Ok(Exit::Ok)
}

async fn call(
    rest: &Rest,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer, CliError> {
    rest.call(method, path, &[], body).await.map_err(failed)
}

fn failed(error: PlannerError) -> CliError {
    CliError::Server(error.to_string())
}
