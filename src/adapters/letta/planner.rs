//! The two ports over whichever Letta there is.
//!
//! In: calls of the memory and notices ports. Out: the same to the side that was configured or found by asking.

use std::sync::Arc;

use chargehand_actors::ports::{
    Delivered, LeftMemory, Memory, MemoryPage, MemoryPlace, Notice, Notices, PlannerError,
    PortFuture, Written,
};
use chargehand_actors::view::TaskView;
use reqwest::Method;
use tokio::sync::OnceCell;

use super::app_server::AppServer;
use super::classic::Classic;
use super::rest::Rest;
use super::settings::{Format, Kind, LettaSettings};
use super::socket::Sockets;
use super::text;

/// Letta, as memory and as the way to its agents. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Letta(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: LettaSettings,
    rest: Rest,
    sockets: Sockets,
    side: OnceCell<Side>,
}

/// Which Letta it is.
#[derive(Debug)]
enum Side {
    Classic(Box<Classic>),
    AppServer(Box<AppServer>),
}

impl Letta {
    /// Prepares a client; nothing is asked yet.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(settings: LettaSettings) -> Result<Self, PlannerError> {
        let rest = Rest::new(&settings.url, settings.token.clone())?;
        let sockets = Sockets::new(&settings.url, settings.token.clone())?;
        Ok(Self(Arc::new(Inner {
            settings,
            rest,
            sockets,
            side: OnceCell::new(),
        })))
    }

    async fn side(&self) -> Result<&Side, PlannerError> {
        self.0.side.get_or_try_init(|| self.0.find_out()).await
    }
}

impl Inner {
    /// As configured; else by the address, else by asking.
    async fn find_out(&self) -> Result<Side, PlannerError> {
        let socket_address = self.settings.url.scheme().starts_with("ws");
        match self.settings.kind {
            Kind::Classic => return Ok(self.classic()),
            Kind::AppServer => return Ok(self.app_server()),
            Kind::Auto if socket_address => return Ok(self.app_server()),
            Kind::Auto => {}
        }
        let health = self.rest.call(Method::GET, "v1/health/", &[], None).await?;
        if health.is_ok() && health.body["version"].is_string() {
            return Ok(self.classic());
        }
        if self
            .rest
            .call(Method::GET, "healthz", &[], None)
            .await?
            .is_ok()
        {
            return Ok(self.app_server());
        }
        Err(PlannerError::Refused(format!(
            "what answers at {} is neither a classic Letta server nor an App Server; set letta.url and letta.kind",
            self.rest.address()
        )))
    }

    fn classic(&self) -> Side {
        let classic = Classic::new(self.rest.clone(), self.settings.clone());
        Side::Classic(Box::new(classic))
    }

    fn app_server(&self) -> Side {
        let server = AppServer::new(self.sockets.clone(), self.settings.clone());
        Side::AppServer(Box::new(server))
    }
}

impl Memory for Letta {
    fn name(&self) -> String {
        let kind = match self.0.settings.kind {
            Kind::Auto => "letta",
            Kind::Classic => "letta classic",
            Kind::AppServer => "letta app server",
        };
        format!("{kind} at {}", self.0.rest.address())
    }

    fn enabled(&self) -> bool {
        self.0.settings.memory
    }

    fn wants(&self, view: &TaskView) -> bool {
        is_agent(view)
    }

    fn events_wanted(&self) -> u64 {
        match self.0.settings.format {
            Format::Text => text::EVENTS_WANTED,
            Format::Json { events, .. } => events.into(),
        }
    }

    fn probe(&self) -> PortFuture<'_, Result<String, PlannerError>> {
        Box::pin(async move {
            match self.side().await? {
                Side::Classic(classic) => classic.probe().await,
                Side::AppServer(server) => server.probe().await,
            }
        })
    }

    fn write(
        &self,
        page: MemoryPage,
        at: Option<MemoryPlace>,
        fresh: bool,
    ) -> PortFuture<'_, Result<Written, PlannerError>> {
        Box::pin(async move {
            match self.side().await? {
                Side::Classic(classic) => classic.write(page, at, fresh).await,
                Side::AppServer(server) => server.write(page, at).await,
            }
        })
    }

    fn archives(&self) -> bool {
        self.0.settings.archival
    }

    fn archive(&self, view: TaskView, in_doubt: bool) -> PortFuture<'_, Result<(), PlannerError>> {
        let page = MemoryPage {
            view,
            events: Vec::new(),
        };
        Box::pin(async move {
            match self.side().await? {
                Side::Classic(classic) => classic.archive(&page, in_doubt).await,
                Side::AppServer(server) => server.archive(&page).await,
            }
        })
    }

    fn close(
        &self,
        view: TaskView,
        at: Option<MemoryPlace>,
    ) -> PortFuture<'_, Result<(), PlannerError>> {
        Box::pin(async move {
            match self.side().await? {
                Side::Classic(classic) => classic.close(&view, at).await,
                Side::AppServer(server) => server.close(&view).await,
            }
        })
    }

    fn left(&self) -> PortFuture<'_, Result<Vec<LeftMemory>, PlannerError>> {
        Box::pin(async move {
            match self.side().await? {
                Side::Classic(classic) => classic.left().await,
                Side::AppServer(server) => server.left().await,
            }
        })
    }

    fn remove(&self, left: LeftMemory) -> PortFuture<'_, Result<(), PlannerError>> {
        Box::pin(async move {
            match self.side().await? {
                Side::Classic(classic) => classic.remove(&left).await,
                Side::AppServer(server) => server.remove(&left).await,
            }
        })
    }
}

impl Notices for Letta {
    fn name(&self) -> String {
        Memory::name(self)
    }

    fn enabled(&self) -> bool {
        true
    }

    fn reaches(&self, view: &TaskView) -> bool {
        is_agent(view)
    }

    fn notify(
        &self,
        notice: Notice,
        in_doubt: bool,
    ) -> PortFuture<'_, Result<Delivered, PlannerError>> {
        Box::pin(async move {
            match self.side().await? {
                Side::Classic(classic) => classic.notify(&notice, in_doubt).await,
                Side::AppServer(server) => server.notify(&notice, in_doubt).await,
            }
        })
    }
}

/// Whether the caller is an agent of a Letta: other clients of ours have other ids, and no memory.
fn is_agent(view: &TaskView) -> bool {
    let id = view.caller.agent_id.strip_prefix("agent-");
    let id = id.map(|id| id.strip_prefix("local-").unwrap_or(id));
    id.is_some_and(|id| id.len() == 36 && uuid::Uuid::try_parse(id).is_ok())
}
