//! Dies at every crash point with the real OpenCode; then every task must end, once, and truly.
//!
//! In: the list of points; the way to each is decided here, and a new point does not compile without one. Out: for every group of points,
//! of which a few lie on the way of one task, one history on one data directory, judged by the checker. A point that was never passed is a failed test.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use chargehand_actors::crash::CrashPoint;
use tokio::task::JoinSet;

use crate::checker::violations;
use crate::checker_evidence::{gather, keep_everything};
use crate::kills_jobs::{Done, Job, Kind};
use crate::kills_planner::Planner;
use crate::kills_world::{Victim, World};

/// How often Chargehand dies on the way of one task.
const DEATHS: usize = 3;

/// How a point is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the first start on a data directory.
    FirstStart,
    /// By a start that finds no worker, while a task is under way.
    NewWorker,
    /// By a start that finds a worker, while a task is under way.
    AnyStart,
    /// By the beginning of such a task.
    Beginning(Kind),
    /// By the end of such a task.
    End(Kind),
    /// By a task, at its first passings in turn up to this one.
    Passings(u32),
    /// Never with the engine `local`, which has no containers and refuses to freeze.
    OtherEngine,
    /// Only where a Letta is configured: `letta_crash` dies there.
    WithLetta,
    /// With a homeserver, in a history of its own (`matrix_crashes`).
    Rooms,
}

fn way(point: CrashPoint) -> Way {
    use CrashPoint as P;
    match point {
        P::BeforeInstance | P::AfterInstance => Way::FirstStart,
        P::BeforeWorkerRecord
        | P::AfterWorkerRecord
        | P::AfterGuardSpawn
        | P::AfterWorkerSpawn
        | P::AfterProcessRecord
        | P::AfterWorkerKnown
        | P::AfterWorkerListens => Way::NewWorker,
        P::BeforeReconciliation | P::AfterReconciliation => Way::AnyStart,
        P::BeforeAppend | P::BeforeCommit => Way::Passings(4),
        P::AfterAppend => Way::Passings(12),
        P::BeforeAccept
        | P::AfterAccept
        | P::BeforePrepare
        | P::WorkdirPlaceMade
        | P::WorkdirFilled
        | P::WorkdirBaseline
        | P::WorkdirSaved
        | P::WorkdirHalfSettled
        | P::AfterPrepare
        | P::BeforeOpen
        | P::SessionMissing
        | P::AfterOpen
        | P::BeforeSend
        | P::AfterSend
        | P::BeforeRead
        | P::AfterRead => Way::Beginning(Kind::Steps),
        P::BeforeOutput | P::AfterOutput => Way::Beginning(Kind::Stream),
        P::BeforeReply | P::AfterReply => Way::Beginning(Kind::Message),
        P::BeforeAbort | P::AfterAbort => Way::End(Kind::Pause),
        P::BeforeAnswer | P::AfterAnswer => Way::End(Kind::Asked),
        P::BeforeChanges
        | P::PatchWritten
        | P::BranchWritten
        | P::AfterChanges
        | P::BeforeEnd
        | P::BeforeRelease
        | P::AfterRelease
        | P::BeforeRemove
        | P::SessionEnded
        | P::SessionDeleted
        | P::AfterRemove => Way::End(Kind::Steps),
        P::BeforeFreeze
        | P::AfterFreeze
        | P::ContainerMissing
        | P::ContainerPlaceMade
        | P::ContainerMade
        | P::ContainerStarted
        | P::ContainerListens
        | P::ContainerGone => Way::OtherEngine,
        P::BeforeMemory
        | P::MemoryMade
        | P::MemoryAttached
        | P::AfterMemory
        | P::BeforeArchive
        | P::AfterArchive
        | P::BeforeMemoryClose
        | P::MemoryHalfClosed
        | P::AfterMemoryClose
        | P::BeforeNotice
        | P::AfterNotice => Way::WithLetta,
        P::BeforeRoomOpen
        | P::AfterRoomOpen
        | P::BeforeRoomPost
        | P::AfterRoomPost
        | P::BeforeRoomCommand
        | P::AfterRoomCommand
        | P::AfterRoomAnswer
        | P::BeforeRoomTake
        | P::AfterRoomTake
        | P::BeforeRoomClose
        | P::AfterRoomClose => Way::Rooms,
    }
}

/// The points that are reached in such ways, in order.
fn points(fits: impl Fn(Way) -> bool) -> impl Iterator<Item = (CrashPoint, Way)> {
    CrashPoint::ALL
        .iter()
        .map(|&point| (point, way(point)))
        .filter(move |(_, way)| fits(*way))
}

/// One history: the world, and what was delegated in it.
struct History {
    world: World,
    running: JoinSet<Done>,
    done: Vec<Done>,
    told: u32,
}

impl History {
    /// With a world whose OpenCode has been started once.
    async fn begin(world: World) -> Self {
        let mut this = Self {
            world,
            running: JoinSet::new(),
            done: Vec::new(),
            told: 0,
        };
        this.world.start(None).await;
        this.world.worker().await;
        keep_everything(&this.world).await;
        this
    }

    /// Delegates one task.
    fn delegate(&mut self, kind: Kind) {
        self.told += 1;
        let job = Job {
            kind,
            tag: format!("{kind:?}-{}", self.told).to_lowercase(),
            place: self.world.place().to_owned(),
            patience: Duration::from_millis(700),
        };
        let planner: Planner = self.world.planner.clone();
        self.running.spawn(job.run(planner));
    }

    /// Waits until every task has ended.
    async fn all_end(&mut self) {
        while let Some(done) = self.running.join_next().await {
            self.done.push(done.unwrap());
        }
    }

    /// Dies at the passing of a point that a start leads to, with a task under way.
    async fn die_in_start(&mut self, point: CrashPoint, without_worker: bool) {
        self.delegate(Kind::Steps);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        self.world.kill(if without_worker {
            Victim::Everything
        } else {
            Victim::Chargehand
        });
        self.world.start(Some(point.name())).await;
        self.live_on(point.name()).await;
    }

    /// Dies at the passing of a point that a new task leads to.
    async fn die_in_task(&mut self, order: &str, kind: Kind) {
        self.die_in_turn(&[order], kind).await;
    }

    /// Dies on the way of one new task, at each of these points in turn.
    async fn die_in_turn(&mut self, orders: &[&str], kind: Kind) {
        self.world.kill_server();
        self.world.start(Some(orders[0])).await;
        self.delegate(kind);
        for pair in orders.windows(2) {
            self.died(pair[0]).await;
            self.world.kill_server();
            self.world.start(Some(pair[1])).await;
        }
        self.live_on(orders[orders.len() - 1]).await;
    }

    async fn died(&mut self, order: &str) {
        let name = order.split(':').next().unwrap();
        self.world.until_died_at(name).await;
    }

    async fn live_on(&mut self, order: &str) {
        let began = Instant::now();
        self.died(order).await;
        let died = began.elapsed();
        // After the death of a guard the server lives.
        self.world.kill_server();
        self.world.start(None).await;
        self.all_end().await;
        println!(
            "{order}: died after {} ms, all had ended {} ms later",
            died.as_millis(),
            (began.elapsed() - died).as_millis()
        );
    }

    /// Everything that happened is judged; then the server is stopped, and nothing may be left.
    async fn judge(mut self) {
        self.all_end().await;
        let evidence = gather(&self.world, &self.done).await;
        let found = violations(&evidence);
        assert!(found.is_empty(), "{found:#?}");
        self.world.stop().await;
        assert_eq!(self.world.ours(), Vec::<i32>::new(), "processes are left");
    }
}

/// A world whose program can die at a point; none where that, or OpenCode, is missing and not required.
async fn mortal_world() -> Option<World> {
    if can_die() {
        World::prepare().await
    } else {
        None
    }
}

/// Whether the program can die at a point; a failure where it must.
pub(crate) fn can_die() -> bool {
    if cfg!(feature = "crash-points") {
        return true;
    }
    let required = std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_some_and(|v| v == "1");
    let why = "built without the feature crash-points (--all-features has it)";
    assert!(!required, "{why}");
    println!("SKIPPED, {why}");
    false
}

/// The points that the engine `local` never passes.
pub(crate) fn passed_elsewhere() -> impl Iterator<Item = CrashPoint> {
    points(|way| way == Way::OtherEngine).map(|(point, _)| point)
}

#[test]
fn only_what_the_engine_cannot_do_has_no_way() {
    for point in passed_elsewhere() {
        let name = point.name();
        assert!(
            name.contains("freeze") || name.contains("container"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_start() {
    let Some(mut world) = mortal_world().await else {
        return;
    };
    for (point, _) in points(|way| way == Way::FirstStart) {
        world.start(Some(point.name())).await;
        world.until_died_at(point.name()).await;
    }
    let mut history = History::begin(world).await;
    for (point, way) in points(|way| matches!(way, Way::NewWorker | Way::AnyStart)) {
        history.die_in_start(point, way == Way::NewWorker).await;
    }
    history.judge().await;
}

/// One history through all points that `fits`.
async fn in_tasks(fits: impl Fn(Way) -> bool) {
    let Some(world) = mortal_world().await else {
        return;
    };
    let mut history = History::begin(world).await;
    let points: Vec<(CrashPoint, Way)> = points(fits).collect();
    let together = |one: &(CrashPoint, Way), other: &(CrashPoint, Way)| one.1 == other.1;
    for points in points.chunk_by(together) {
        let (_, way) = points[0];
        match way {
            Way::Beginning(kind) | Way::End(kind) => {
                let names: Vec<&str> = points.iter().map(|(point, _)| point.name()).collect();
                for names in names.chunks(DEATHS) {
                    history.die_in_turn(names, kind).await;
                }
            }
            Way::Passings(last) => {
                for ((point, _), passing) in points
                    .iter()
                    .flat_map(|one| (1..=last).map(move |passing| (one, passing)))
                {
                    let order = format!("{}:{passing}", point.name());
                    history.die_in_task(&order, Kind::Steps).await;
                }
            }
            Way::FirstStart
            | Way::NewWorker
            | Way::AnyStart
            | Way::OtherEngine
            | Way::WithLetta
            | Way::Rooms => {
                unreachable!("not a point of a task")
            }
        }
    }
    history.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_beginning_of_a_task() {
    in_tasks(|way| matches!(way, Way::Beginning(_))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_end_of_a_task() {
    in_tasks(|way| matches!(way, Way::End(_))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_commit_of_a_task() {
    in_tasks(|way| matches!(way, Way::Passings(_))).await;
}
