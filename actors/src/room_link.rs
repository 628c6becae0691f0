//! The link to the homeserver: logs in, keeps the one stream open, and starts it again when it breaks.
//!
//! In: the end of the stream. Out: its signals to the rooms supervisor. A login that is not valid any more stops it for
//! good: trying again would not help, and health says what to do.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::board::{ActorKind, Slot};
use crate::handle::{Handle, Inbox};
use crate::jobs::{JobEnd, Jobs};
use crate::ports::{RoomError, RoomSignal, RoomSink};
use crate::rooms::RoomsMsg;
use crate::wiring::Wires;

/// A stream is meant to last; it is opened anew once a day at the latest.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// The longest back-off.
const LONGEST_MS: u64 = 30_000;

pub(crate) enum RoomLinkMsg {
    Ended(JobEnd<Result<(), RoomError>>),
    /// The stream is open.
    Up,
    Start,
}

pub(crate) struct RoomLink;

pub(crate) struct RoomLinkArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
}

pub(crate) struct RoomLinkState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    handle: Handle<RoomLinkMsg>,
    jobs: Jobs<RoomLinkMsg>,
    failures: u32,
}

impl Actor for RoomLink {
    type Msg = RoomLinkMsg;
    type State = RoomLinkState;
    type Arguments = RoomLinkArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RoomLinkMsg>,
        args: RoomLinkArgs,
    ) -> Result<RoomLinkState, ActorProcessingErr> {
        let handle = Handle::empty();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::RoomLink,
            "homeserver",
            args.restarts,
            &handle,
        );
        let mut state = RoomLinkState {
            slot,
            inbox: handle.inbox(),
            jobs: Jobs::new(handle.clone()),
            handle,
            failures: 0,
            wires: args.wires,
        };
        state.listen();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<RoomLinkMsg>,
        message: RoomLinkMsg,
        state: &mut RoomLinkState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            RoomLinkMsg::Up => {
                state.failures = 0;
                state.slot.set_phase("listening");
            }
            RoomLinkMsg::Start => state.listen(),
            RoomLinkMsg::Ended(end) => state.ended(end),
        }
        Ok(())
    }
}

impl RoomLinkState {
    fn listen(&mut self) {
        self.slot.set_phase("connecting");
        let supervisor = self.wires.rooms.clone();
        let handle = self.handle.clone();
        let sink: RoomSink = Arc::new(move |signal| {
            if signal == RoomSignal::Up {
                handle.tell(RoomLinkMsg::Up);
            }
            supervisor.tell(RoomsMsg::Signal(signal));
        });
        let rooms = Arc::clone(&self.wires.ports.rooms);
        self.jobs.start(
            DEADLINE,
            async move { rooms.listen(sink).await },
            |_, end| RoomLinkMsg::Ended(end),
        );
    }

    fn ended(&mut self, end: JobEnd<Result<(), RoomError>>) {
        let error = match end.or_else(RoomError::Transient) {
            Ok(()) => RoomError::Transient("the stream ended".to_owned()),
            Err(error) => error,
        };
        if let RoomError::LoginLost(why) = &error {
            self.slot.set_phase("login lost");
            tracing::error!(
                why,
                "rooms are silent until the login is mended; tasks go on"
            );
            self.wires.rooms.tell(RoomsMsg::LoginLost);
            return;
        }
        self.failures += 1;
        self.slot.set_phase("backing off");
        let ceiling = (250u64 << self.failures.min(7)).min(LONGEST_MS);
        let wait =
            Duration::from_millis(ceiling).mul_f64(0.5 + self.wires.ports.ids.jitter() / 2.0);
        if self.failures.is_power_of_two() {
            tracing::warn!(%error, "the homeserver does not answer; rooms are told later, tasks go on");
        }
        self.jobs.after(wait, RoomLinkMsg::Start);
    }
}
