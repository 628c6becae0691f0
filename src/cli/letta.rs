//! Puts the planner's side together: from the settings of `[letta]` to the ports of memory and notices.
//!
//! In: [`Settings`]. Out: [`Planner`], with ports that do nothing where no Letta is configured.

use std::sync::Arc;

use chargehand_actors::event::CommittedEvent;
use chargehand_actors::id::InstanceId;
use chargehand_actors::ports::{Memory, Notices, PlannerError};

use crate::adapters::letta::{EventWords, Format, Kind, Letta, LettaSettings, Role, Token};
use crate::adapters::outward::{NoMemory, NoNotices};
use crate::config::{self, LettaKind, MemoryFormat, NoticeRole, Settings};
use crate::words;

/// The ports of the planner's side.
pub(crate) struct Planner {
    pub(crate) memory: Arc<dyn Memory>,
    pub(crate) notices: Arc<dyn Notices>,
}

/// The planner's side as configured.
pub(crate) fn planner(settings: &Settings, instance: &InstanceId) -> Result<Planner, PlannerError> {
    let configured = settings.letta.as_ref();
    let Some((letta, kind)) = configured.and_then(|letta| Some((letta, kind(letta.kind)?))) else {
        return Ok(Planner {
            memory: Arc::new(NoMemory),
            notices: Arc::new(NoNotices),
        });
    };
    let letta = Letta::new(adapter(letta, kind, instance, &settings.server.tool_prefix))?;
    Ok(Planner {
        memory: Arc::new(letta.clone()),
        notices: Arc::new(letta),
    })
}

const fn kind(kind: LettaKind) -> Option<Kind> {
    match kind {
        LettaKind::Auto => Some(Kind::Auto),
        LettaKind::Classic => Some(Kind::Classic),
        LettaKind::AppServer => Some(Kind::AppServer),
        LettaKind::None => None,
    }
}

fn adapter(
    letta: &config::LettaSettings,
    kind: Kind,
    instance: &InstanceId,
    tool_prefix: &str,
) -> LettaSettings {
    LettaSettings {
        url: letta.url.clone(),
        token: letta.token.as_ref().map(|token| Token::new(token.expose())),
        kind,
        instance: instance.0.clone(),
        memory: letta.memory,
        format: match letta.format {
            MemoryFormat::Text => Format::Text,
            MemoryFormat::Json => Format::Json {
                events: letta.max_events,
                limit: usize::try_from(letta.block_limit).unwrap_or(usize::MAX),
            },
        },
        attach: letta.attach,
        archival: letta.archival,
        keep: letta.keep,
        role: match letta.role {
            NoticeRole::System => Role::System,
            NoticeRole::User => Role::User,
        },
        tool_prefix: tool_prefix.to_owned(),
        words: in_words,
    }
}

fn in_words(committed: &CommittedEvent) -> EventWords {
    EventWords {
        kind: words::original_type(&committed.event),
        sentence: words::sentence(&committed.event),
    }
}
