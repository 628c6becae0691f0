//! Crash points: every boundary between a commit and its effect, and between an effect and its result, has a name.
//!
//! In: the line that passes a point, and in a test build the variable `CHARGEHAND_DIE_AT=<name>[:<n>]`. Out: at the n-th passing
//! the process is gone at once, without a destructor, a flush or a goodbye. Only the feature `crash-points` makes that
//! possible; it cannot be built without debug assertions, so no release has it, and without it a point compiles to nothing.
//! Which tests pass which point: docs/design/crash-points.md.

use crate::machine::Effect;

#[cfg(all(feature = "crash-points", not(debug_assertions)))]
compile_error!(
    "the feature `crash-points` is for tests; a build without debug assertions must not have it"
);

/// Declares the points once: the variant, the name that the variable takes, and the list of all.
macro_rules! crash_points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)+) => {
        /// A moment at which everything may end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CrashPoint {
            $($(#[$doc])* $point,)+
        }

        impl CrashPoint {
            /// Every point, in the order of a task's life.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// The name that `CHARGEHAND_DIE_AT` takes.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

crash_points! {
    /// The instance id of a new data directory is decided and not written.
    BeforeInstance = "before.instance",
    /// The instance id is written; nothing carries it yet.
    AfterInstance = "after.instance",
    /// What an earlier worker left is ended; the new generation is not recorded.
    BeforeWorkerRecord = "before.worker_record",
    /// The generation is recorded; no guard runs.
    AfterWorkerRecord = "after.worker_record",
    /// The guard is spawned; its worker is not known.
    AfterGuardSpawn = "after.guard_spawn",
    /// In the guard: the worker runs and is written down nowhere.
    AfterWorkerSpawn = "after.worker_spawn",
    /// In the guard: both processes are written down.
    AfterProcessRecord = "after.process_record",
    /// The worker is known; its port is not.
    AfterWorkerKnown = "after.worker_known",
    /// The worker listens; nobody has asked it anything.
    AfterWorkerListens = "after.worker_listens",
    /// What an engine holds was compared with the journal; the comparison is not recorded.
    BeforeReconciliation = "before.reconciliation",
    /// The comparison is recorded; nothing stale is removed, nothing is dispatched.
    AfterReconciliation = "after.reconciliation",
    /// A batch is numbered and not written.
    BeforeAppend = "before.append",
    /// A batch is written inside a transaction that is not committed.
    BeforeCommit = "before.commit",
    /// A batch is durable; nobody has been told.
    AfterAppend = "after.append",
    /// A task is decided to be taken; nothing is durable.
    BeforeAccept = "before.accept",
    /// A task is durable; its caller does not know, no actor runs.
    AfterAccept = "after.accept",
    /// A slot is committed; the workdir is not begun.
    BeforePrepare = "before.prepare_workdir",
    /// A place to prepare in is made and empty.
    WorkdirPlaceMade = "prepare.place_made",
    /// The source is in the place; there is no baseline.
    WorkdirFilled = "prepare.filled",
    /// The baseline is taken; the state is not saved.
    WorkdirBaseline = "prepare.baseline",
    /// The state is saved; nothing is where it belongs.
    WorkdirSaved = "prepare.saved",
    /// The workdir is where it belongs; its baseline is not.
    WorkdirHalfSettled = "prepare.half_settled",
    /// The workdir is complete; nobody knows.
    AfterPrepare = "after.prepare_workdir",
    /// A session is wanted; nothing was asked of the engine.
    BeforeOpen = "before.open_session",
    /// No session carries the attempt; one is about to be made.
    SessionMissing = "open_session.missing",
    /// No container carries the attempt; one is about to be made.
    ContainerMissing = "open_session.container_missing",
    /// The directories of the container are there; it is not.
    ContainerPlaceMade = "open_session.container_place",
    /// The container is made; it was never started.
    ContainerMade = "open_session.container_made",
    /// The container is started; nobody knows whether its OpenCode listens.
    ContainerStarted = "open_session.container_started",
    /// OpenCode in the container listens; nobody has asked it anything.
    ContainerListens = "open_session.container_listens",
    /// The session exists; its id is known nowhere.
    AfterOpen = "after.open_session",
    /// A prompt is recorded and not sent.
    BeforeSend = "before.send_prompt",
    /// A prompt was taken by the engine; nobody knows.
    AfterSend = "after.send_prompt",
    /// A reading is wanted.
    BeforeRead = "before.read_session",
    /// A reading is there; nothing was concluded.
    AfterRead = "after.read_session",
    /// An abort is recorded and not asked for.
    BeforeAbort = "before.abort",
    /// The run's end was seen; it is not recorded.
    AfterAbort = "after.abort",
    /// A freeze or a thaw is wanted.
    BeforeFreeze = "before.freeze",
    /// The engine has frozen or thawed; nobody knows.
    AfterFreeze = "after.freeze",
    /// An answer is recorded and not given.
    BeforeAnswer = "before.give_answer",
    /// The answer was given; nobody knows.
    AfterAnswer = "after.give_answer",
    /// Output is to be written to its file.
    BeforeOutput = "before.append_output",
    /// Output is in its file.
    AfterOutput = "after.append_output",
    /// The run has ended, durably; its changes are not looked at.
    BeforeChanges = "before.take_changes",
    /// The patch is written; the branch is not.
    PatchWritten = "take_changes.patch",
    /// The branch points to the result; the changes are not told.
    BranchWritten = "take_changes.branch",
    /// The changes are known; nothing is decided about them.
    AfterChanges = "after.take_changes",
    /// The end is decided and on its way to the journal.
    BeforeEnd = "before.end",
    /// The end is durable; the attempt is not given to the reaper.
    BeforeRelease = "before.release",
    /// The attempt is given to the reaper.
    AfterRelease = "after.release",
    /// A removal is about to begin.
    BeforeRemove = "before.remove",
    /// A session's run has ended; the session is there.
    SessionEnded = "remove.session_ended",
    /// A session is deleted; what runs in its workdir is not looked for.
    SessionDeleted = "remove.session_deleted",
    /// The container is gone; what it had on disk is there.
    ContainerGone = "remove.container_gone",
    /// Nothing is left of the attempt; that is not recorded.
    AfterRemove = "after.remove",
    /// A task's memory is to be written; that it may exist is recorded.
    BeforeMemory = "before.memory",
    /// The memory is made; no agent sees it.
    MemoryMade = "memory.made",
    /// The agent has it; it does not say anything yet.
    MemoryAttached = "memory.attached",
    /// The memory says what is known; that is not recorded.
    AfterMemory = "after.memory",
    /// That the end may be archived is recorded; it is not.
    BeforeArchive = "before.archive",
    /// The end is archived; the memory is there.
    AfterArchive = "after.archive",
    /// An ended task's memory is to be closed.
    BeforeMemoryClose = "before.memory_close",
    /// The agent does not have it any more, or it is deleted; the agent's prompt still shows it.
    MemoryHalfClosed = "memory.half_closed",
    /// The memory is closed; that is not recorded.
    AfterMemoryClose = "after.memory_close",
    /// A notice is recorded as wanted and not sent.
    BeforeNotice = "before.notice",
    /// The agent's side has taken the notice; nobody knows.
    AfterNotice = "after.notice",
    /// A room is to be made.
    BeforeRoomOpen = "before.room_open",
    /// The room exists; its id is known nowhere.
    AfterRoomOpen = "after.room_open",
    /// Something is to be said in a room.
    BeforeRoomPost = "before.room_post",
    /// It was said; nobody knows.
    AfterRoomPost = "after.room_post",
    /// A command of a room is durable and begun; nothing was asked of the tree.
    BeforeRoomCommand = "before.room_command",
    /// The tree has done a command of a room; nobody was answered.
    AfterRoomCommand = "after.room_command",
    /// A command of a room is answered; that is not recorded.
    AfterRoomAnswer = "after.room_answer",
    /// What was said in a room was read; nothing of it is taken down.
    BeforeRoomTake = "before.room_take",
    /// It is taken down; nothing is done about it.
    AfterRoomTake = "after.room_take",
    /// Everything is told; the room is open to all.
    BeforeRoomClose = "before.room_close",
    /// Nobody can write any more; that is not recorded.
    AfterRoomClose = "after.room_close",
    /// What a caller asked for is durable; the caller does not know.
    BeforeReply = "before.reply",
    /// The caller was answered.
    AfterReply = "after.reply",
}

impl CrashPoint {
    /// Dies here, if this build can and was told to.
    #[inline]
    pub fn pass(self) {
        #[cfg(feature = "crash-points")]
        armed::pass(self);
    }
}

/// The points around an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around(Option<(CrashPoint, CrashPoint)>);

impl Around {
    /// Those of writing output, of which several pieces go together.
    pub(crate) const OUTPUT: Self = Self(Some((CrashPoint::BeforeOutput, CrashPoint::AfterOutput)));

    /// The points of an effect. An effect without any does not leave this process: it is lost with it and asked for again.
    pub const fn effect(effect: &Effect) -> Self {
        use CrashPoint as P;
        Self(match effect {
            Effect::PrepareWorkdir => Some((P::BeforePrepare, P::AfterPrepare)),
            Effect::OpenSession { .. } => Some((P::BeforeOpen, P::AfterOpen)),
            Effect::SendPrompt { .. } => Some((P::BeforeSend, P::AfterSend)),
            Effect::ReadSession { .. } => Some((P::BeforeRead, P::AfterRead)),
            Effect::Abort { .. } => Some((P::BeforeAbort, P::AfterAbort)),
            Effect::Freeze { .. } => Some((P::BeforeFreeze, P::AfterFreeze)),
            Effect::GiveAnswer { .. } => Some((P::BeforeAnswer, P::AfterAnswer)),
            Effect::TakeChanges => Some((P::BeforeChanges, P::AfterChanges)),
            Effect::AppendOutput { .. } => return Self::OUTPUT,
            Effect::Release { .. } => Some((P::BeforeRelease, P::AfterRelease)),
            Effect::Reply(..) => Some((P::BeforeReply, P::AfterReply)),
            Effect::Route { .. } | Effect::DropJobs | Effect::Finish => None,
        })
    }

    /// Before and after; none for an effect inside this process.
    pub const fn points(self) -> Option<(CrashPoint, CrashPoint)> {
        self.0
    }

    /// Passes the point before the effect.
    #[inline]
    pub fn before(self) {
        if let Some((before, _)) = self.0 {
            before.pass();
        }
    }

    /// Passes the point after it.
    #[inline]
    pub fn after(self) {
        if let Some((_, after)) = self.0 {
            after.pass();
        }
    }

    /// The work with a point on either side.
    pub async fn over<F: Future>(self, work: F) -> F::Output {
        self.before();
        let done = work.await;
        self.after();
        done
    }
}

/// The variable that names the point.
pub const VARIABLE: &str = "CHARGEHAND_DIE_AT";

#[cfg(feature = "crash-points")]
pub use armed::check;

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{CrashPoint, VARIABLE};

    /// Where to die, and after how many passings.
    struct Armed {
        point: CrashPoint,
        left: AtomicU32,
    }

    static ARMED: LazyLock<Result<Option<Armed>, String>> =
        LazyLock::new(|| match std::env::var(VARIABLE) {
            Ok(order) => read(&order).map(Some),
            Err(_) => Ok(None),
        });

    fn read(order: &str) -> Result<Armed, String> {
        let (name, times) = order.split_once(':').unwrap_or((order, "1"));
        let point = CrashPoint::ALL.iter().find(|point| point.name() == name);
        let times = times.parse().ok().filter(|times| *times > 0);
        match (point, times) {
            (Some(&point), Some(times)) => Ok(Armed {
                point,
                left: AtomicU32::new(times),
            }),
            _ => Err(format!(
                "{VARIABLE}={order} names no crash point, or not how often it is passed (1 or more)"
            )),
        }
    }

    /// Whether the variable can be obeyed: a misspelt point would make a test that cannot fail.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check() -> Result<(), String> {
        ARMED.as_ref().map(drop).map_err(Clone::clone)
    }

    pub(super) fn pass(point: CrashPoint) {
        if let Ok(Some(armed)) = &*ARMED
            && armed.point == point
            && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            // The test reads this line: only who died here has written it.
            eprintln!("chargehand: died at {}", point.name());
            std::process::abort();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::read;

        #[test]
        fn an_order_names_a_point_and_a_passing() {
            let read =
                |order| read(order).map(|armed| (armed.point.name(), armed.left.into_inner()));
            assert_eq!(read("after.append"), Ok(("after.append", 1)));
            assert_eq!(read("before.reply:12"), Ok(("before.reply", 12)));
            for bad in ["", "after.nothing", "after.append:0", "after.append:x"] {
                assert!(read(bad).is_err_and(|why| why.contains(bad)), "{bad}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Around, CrashPoint};
    use crate::command::Answer;
    use crate::event::{Prompt, PromptKind, Request, RequestKind, SessionRef};
    use crate::id::RequestId;
    use crate::machine::{Effect, Refusal, Reply, Ticket};

    /// One of each kind. The match makes a new kind fail to compile here until it is added.
    fn every_effect() -> Vec<Effect> {
        let session = SessionRef {
            id: "s".to_owned(),
            directory: "/d".to_owned(),
            server: "local".to_owned(),
        };
        let prompt = Prompt {
            number: 1,
            kind: PromptKind::First,
            message_id: "m".to_owned(),
            part_id: "p".to_owned(),
            text: "t".to_owned(),
            carries: None,
        };
        let request = Request {
            id: RequestId("r".to_owned()),
            session: "s".to_owned(),
            text: "t".to_owned(),
            kind: RequestKind::Question {
                questions: Vec::new(),
            },
        };
        let mut all = vec![Effect::PrepareWorkdir];
        while let Some(next) = all.last().and_then(|last| match last {
            Effect::PrepareWorkdir => Some(Effect::OpenSession {
                directory: "/d".to_owned(),
            }),
            Effect::OpenSession { .. } => Some(Effect::SendPrompt {
                session: session.clone(),
                prompt: prompt.clone(),
            }),
            Effect::SendPrompt { .. } => Some(Effect::ReadSession {
                session: session.clone(),
                prompts: Vec::new(),
            }),
            Effect::ReadSession { .. } => Some(Effect::Abort {
                session: session.clone(),
            }),
            Effect::Abort { .. } => Some(Effect::Freeze {
                session: session.clone(),
                frozen: true,
            }),
            Effect::Freeze { .. } => Some(Effect::GiveAnswer {
                session: session.clone(),
                request: request.clone(),
                answer: Answer::Allow { always: false },
            }),
            Effect::GiveAnswer { .. } => Some(Effect::TakeChanges),
            Effect::TakeChanges => Some(Effect::AppendOutput {
                text: "t".to_owned(),
            }),
            Effect::AppendOutput { .. } => Some(Effect::Route {
                session: session.clone(),
            }),
            Effect::Route { .. } => Some(Effect::DropJobs),
            Effect::DropJobs => Some(Effect::Release { session: None }),
            Effect::Release { .. } => Some(Effect::Finish),
            Effect::Finish => Some(Effect::Reply(
                Ticket(1),
                Reply::Refused(Refusal::Phase("x".to_owned())),
            )),
            Effect::Reply(..) => None,
        }) {
            all.push(next);
        }
        all
    }

    #[test]
    fn every_effect_that_leaves_the_process_has_its_two_points() {
        let effects = every_effect();
        assert_eq!(effects.len(), 14);
        let mut used = BTreeSet::new();
        for effect in &effects {
            let Some((before, after)) = Around::effect(effect).points() else {
                let inside = matches!(
                    effect,
                    Effect::Route { .. } | Effect::DropJobs | Effect::Finish
                );
                assert!(inside, "{effect:?} has no points");
                continue;
            };
            let of = |point: CrashPoint, side: &str| {
                point.name().strip_prefix(side).map(ToOwned::to_owned)
            };
            assert_eq!(of(before, "before."), of(after, "after."), "{effect:?}");
            assert!(of(before, "before.").is_some(), "{effect:?}");
            assert!(used.insert(before.name()), "{effect:?} shares its points");
        }
        let names: BTreeSet<&str> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), CrashPoint::ALL.len(), "a name is there twice");
    }
}
