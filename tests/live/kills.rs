//! Kills at random moments: Chargehand, OpenCode, its guard, or all of them, while tasks of every kind flow.
//!
//! In: `CHARGEHAND_TEST_KILLS` (8 when it is not set), `CHARGEHAND_TEST_SEED` to repeat the choices of an earlier run. Out: one history,
//! judged by the checker. The seed is printed.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;

use crate::checker::violations;
use crate::checker_evidence::{gather, keep_everything};
use crate::kills_jobs::{Done, Job, Kind};
use crate::kills_world::{Victim, World};

/// Tasks under way at any time; more than may run, so that some are queued.
const UNDER_WAY: usize = 6;

/// A sequence of choices that its seed repeats (SplitMix64).
pub(crate) struct Choices(u64);

impl Choices {
    /// With the seed that `CHARGEHAND_TEST_SEED` names, else one of its own, which is printed.
    pub(crate) fn seeded() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = number("CHARGEHAND_TEST_SEED").unwrap_or(now.unwrap().as_secs());
        println!("CHARGEHAND_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    fn kind(&mut self) -> Kind {
        let all = Kind::ALL;
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    fn victim(&mut self) -> Victim {
        match self.below(20) {
            0..9 => Victim::Chargehand,
            9..14 => Victim::Worker,
            14..17 => Victim::ChargehandAndWorker,
            17..19 => Victim::Guard,
            _ => Victim::Everything,
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Keeps tasks flowing until told to end; gives those that have ended.
struct Flow {
    running: JoinSet<Done>,
    done: Vec<Done>,
    told: u32,
}

impl Flow {
    fn fill(&mut self, world: &World, choices: &mut Choices) {
        while let Some(done) = self.running.try_join_next() {
            self.done.push(done.unwrap());
        }
        while self.running.len() < UNDER_WAY {
            self.told += 1;
            let kind = choices.kind();
            let job = Job {
                kind,
                tag: format!("{kind:?}-{}", self.told).to_lowercase(),
                place: world.place().to_owned(),
                patience: choices.millis(0, 2_500),
            };
            self.running.spawn(job.run(world.planner.clone()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_random() {
    let kills = number("CHARGEHAND_TEST_KILLS").unwrap_or(8);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = number("CHARGEHAND_TEST_SEED").unwrap_or(now.unwrap().as_secs());
    println!("{kills} kills, CHARGEHAND_TEST_SEED={seed}");
    let Some(mut world) = World::prepare().await else {
        return;
    };
    let mut choices = Choices(seed);
    world.start(None).await;
    world.worker().await;
    keep_everything(&world).await;
    let began = Instant::now();
    let mut flow = Flow {
        running: JoinSet::new(),
        done: Vec::new(),
        told: 0,
    };
    let mut hits: BTreeMap<String, u32> = BTreeMap::new();
    let mut killed = 0;
    while killed < kills {
        flow.fill(&world, &mut choices);
        // Some kills hit a start, and some the start after that; but most must hit tasks under way.
        if choices.below(3) > 0 {
            world.ready_within(Duration::from_secs(20)).await;
        }
        tokio::time::sleep(choices.millis(300, 2_700)).await;
        let victim = choices.victim();
        if world.kill(victim) {
            killed += 1;
            println!("{:>6} ms: killed {victim:?}", began.elapsed().as_millis());
            *hits.entry(format!("{victim:?}")).or_default() += 1;
        }
        if world.is_down() {
            tokio::time::sleep(choices.millis(0, 1_000)).await;
            world.start(None).await;
        }
    }
    while let Some(done) = flow.running.join_next().await {
        flow.done.push(done.unwrap());
    }
    let evidence = gather(&world, &flow.done).await;
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for task in &evidence.tasks {
        let end = task.status["status"].as_str().unwrap_or_default();
        *ends.entry(end.to_owned()).or_default() += 1;
    }
    println!(
        "{killed} kills {hits:?}, {} tasks {ends:?}, {} sessions, {} s",
        evidence.tasks.len(),
        evidence.sessions.len(),
        began.elapsed().as_secs()
    );
    let found = violations(&evidence);
    assert!(
        found.is_empty(),
        "CHARGEHAND_TEST_SEED={seed}:\n{}",
        found.join("\n")
    );
    world.stop().await;
    assert_eq!(world.ours(), Vec::<i32>::new(), "processes are left");
}
