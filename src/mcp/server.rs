//! The MCP server over the tools: what rmcp asks of a server, nothing more.
//!
//! In: `tools/list` and `tools/call` with the HTTP request's identity. Out: the table of tools and their answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CustomRequest, CustomResult,
    ErrorCode, ErrorData, Implementation, JsonObject, ListToolsResult, PaginatedRequestParams,
    ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleServer, ServerHandler};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::answer::{Refusal, result};
use super::args::{Args, BadArguments};
use super::call::{Call, Edge};
use super::prefix::Names;
use super::sessions::Sessions;
use super::tools;
use crate::audit;
use crate::who::Who;

const INSTRUCTIONS: &str = "Chargehand runs development tasks with OpenCode. Delegate with opencode_execute_task, \
then call get_task_status with the task_id and wait_seconds=45 until status is completed, failed, timeout or cancelled. \
send_task_message tells the worker something on the way, send_task_control cancels, pauses or resumes. Results: \
get_task_history with include_artifacts=true (full text and diff), get_task_files and read_task_file. A task goes on \
when your connection ends; list_tasks finds it again.";

/// Counts tool calls that are being answered.
#[derive(Clone, Debug)]
pub(crate) struct InFlight(watch::Sender<usize>);

impl InFlight {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    fn enter(&self) -> InFlightGuard {
        self.0.send_modify(|count| *count += 1);
        InFlightGuard(self.0.clone())
    }

    /// Completes when none is being answered.
    pub(crate) async fn none(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

struct InFlightGuard(watch::Sender<usize>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The server that each session or stateless request gets.
#[derive(Clone)]
struct Server {
    edge: Edge,
    in_flight: InFlight,
    names: Names,
    /// As `tools/list` shows them.
    listed: Arc<[Tool]>,
}

/// The service for `/mcp`. Sessions of removed tokens are closed when `tokens_change` says so; `cancel` ends open streams; it comes last in a shutdown.
pub(crate) fn service(
    edge: Edge,
    in_flight: InFlight,
    tokens_change: watch::Receiver<u64>,
    cancel: CancellationToken,
) -> StreamableHttpService<impl ServerHandler, Sessions> {
    let sessions = Arc::new(Sessions::new(
        edge.settings.server.max_sessions,
        edge.settings.server.session_idle,
        edge.counters.clone(),
    ));
    tokio::spawn(Arc::clone(&sessions).tidy(tokens_change, cancel.clone()));
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(true)
        .with_json_response(true)
        .with_sse_keep_alive(Some(Duration::from_secs(15)))
        .with_sse_retry(None)
        .with_max_request_body_bytes(edge.settings.server.max_body_bytes)
        .with_cancellation_token(cancel)
        // Host and Origin are checked once for every route, exactly, in `crate::http::guard`.
        .disable_allowed_hosts()
        .disable_allowed_origins();
    let names = Names::new(&edge.settings.server.tool_prefix);
    let server = Server {
        edge,
        in_flight,
        listed: names.listed().into(),
        names,
    };
    StreamableHttpService::new(move || Ok(server.clone()), sessions, config)
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(
                Implementation::new("chargehand", env!("CARGO_PKG_VERSION"))
                    .with_title("Chargehand"),
            )
            .with_instructions(self.names.text(INSTRUCTIONS))
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.listed.to_vec()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.listed
            .iter()
            .find(|tool| self.names.bare(&tool.name) == self.names.bare(name))
            .cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let answer = self
            .answer(
                &request.name,
                Ok(request.arguments.unwrap_or_default()),
                &context,
            )
            .await?;
        Ok(answer.into())
    }

    // rmcp takes a `tools/call` whose arguments are no object for a method that it does not know.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        if request.method != "tools/call" {
            return Err(ErrorData::new(
                ErrorCode::METHOD_NOT_FOUND,
                format!(
                    "method {} is not served; this server has tools only",
                    request.method
                ),
                None,
            ));
        }
        let params = request.params.unwrap_or_default();
        let Some(name) = params.get("name").and_then(Value::as_str) else {
            return Err(ErrorData::invalid_params(
                "tools/call needs params.name, the name of a tool",
                None,
            ));
        };
        let arguments = params.get("arguments").map_or_else(
            || Ok(JsonObject::new()),
            |arguments| object(arguments.clone()),
        );
        let mut answer = self.answer(name, arguments, &context).await?;
        answer.result_type = None;
        serde_json::to_value(answer)
            .map(CustomResult::new)
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }
}

/// Arguments that came as something else than an object: their JSON text is read, everything else is refused.
fn object(arguments: Value) -> Result<JsonObject, BadArguments> {
    let read = match arguments {
        Value::String(text) if text.trim().is_empty() => Value::Null,
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::Bool(false)),
        other => other,
    };
    match read {
        Value::Object(fields) => Ok(fields),
        Value::Null => Ok(JsonObject::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(BadArguments::one(
                "arguments",
                "is no JSON object",
                "an object with the arguments of the tool, such as {\"task_id\": \"…\"}",
            ))
        }
    }
}

/// The header `X-Conversation-Id`. It only says where memory and notices are shown, so what is no id is left out.
fn conversation(parts: &http::request::Parts) -> Option<String> {
    let text = parts
        .headers
        .get("x-conversation-id")?
        .to_str()
        .ok()?
        .trim();
    let sound = !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_graphic());
    sound.then(|| text.to_owned())
}

impl Server {
    async fn answer(
        &self,
        name: &str,
        arguments: Result<JsonObject, BadArguments>,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let _guard = self.in_flight.enter();
        let begun = Instant::now();
        let call = self.call(context)?;
        let tool = tools::find(self.names.bare(name)).map_err(|text| {
            audit::refused(&call.who, "unknown", None, "NO_SUCH_TOOL");
            ErrorData::invalid_params(text, None)
        })?;
        let who = call.who.clone();
        let limit = who.calls.as_ref().map_or(Ok(()), |calls| {
            let per_minute = calls.per_minute();
            let wait = calls.take().err();
            wait.map_or(Ok(()), |wait| Err(Refusal::TooOften { per_minute, wait }))
        });
        let checked =
            limit.and_then(|()| Ok(arguments.and_then(|given| Args::check(tool.args, given))?));
        let (task, done) = match checked {
            Ok(args) => (
                args.text("task_id").map(str::to_owned),
                (tool.run)(call, args).await,
            ),
            Err(refusal) => (None, result::<()>(tool.name, Err(refusal))),
        };
        if let Some(code) = done.refused {
            audit::refused(&who, tool.name, task.as_deref(), code);
        }
        let counters = &self.edge.counters;
        counters.called(tool.name, done.refused.unwrap_or("ok"), begun.elapsed());
        tracing::debug!(
            tool = tool.name,
            refused = done.refused.is_some(),
            "tool call answered"
        );
        Ok(self.names.answer(done.result))
    }

    fn call(&self, context: &RequestContext<RoleServer>) -> Result<Call, ErrorData> {
        let parts = context.extensions.get::<http::request::Parts>();
        // The token check puts it there; without it nobody may do anything.
        let who = parts
            .and_then(|parts| parts.extensions.get::<Who>())
            .cloned()
            .ok_or_else(|| ErrorData::internal_error("the request carries no identity", None))?;
        Ok(Call {
            edge: self.edge.clone(),
            who,
            conversation: parts.and_then(conversation),
            gone: context.ct.clone(),
        })
    }
}
