//! What each caller may have at once: places in the queue, slots, and what a token's own limits change.

use std::collections::BTreeMap;

use chargehand_actors::command::{Caller, Submit};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::World;
use chargehand_actors::tree::CallerLimits;

use crate::stage::{Stage, sleep};

fn by(token: &str, agent: &str, script: &str) -> Submit {
    Submit {
        caller: Caller {
            token: token.to_owned(),
            agent_id: agent.to_owned(),
        },
        ..World::task(script)
    }
}

fn limit(submit: Result<chargehand_actors::view::Submitted, TreeError>) -> (u32, u32) {
    match submit {
        Err(TreeError::CallerLimit { held, limit }) => (held, limit),
        other => panic!("not refused for the caller's own limit: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_cannot_take_all_places_of_the_queue() {
    let mut world = World::new(1);
    world.settings.max_running = 2;
    world.settings.max_running_per_caller = 1;
    world.settings.max_queued = 10;
    world.settings.max_queued_per_caller = 2;
    let stage = Stage::of(world).await;
    let mut mine = Vec::new();
    for _ in 0..3 {
        mine.push(stage.send(by("t", "greedy", "work 1000")).await);
    }
    let refused = stage.handle.submit(by("t", "greedy", "work 1")).await;
    assert_eq!(limit(refused.clone()), (2, 2));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("your limit is 2"), "{text}");
    // Another agent of the same token, and the same agent of another token, are other callers.
    let other = stage.send(by("t", "modest", "work 1000")).await;
    let another = stage.send(by("u", "greedy", "work 1000")).await;
    // A place is free again when one of the caller's tasks has started.
    stage.reach(mine[1], Phase::Running).await;
    mine.push(stage.send(by("t", "greedy", "work 1")).await);
    for task in mine.into_iter().chain([other, another]) {
        stage.reach(task, Phase::Completed).await;
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_one_caller_cannot_slip_past_its_limit() {
    let mut world = World::new(1);
    world.settings.max_running = 1;
    world.settings.max_queued_per_caller = 2;
    let stage = Stage::of(world).await;
    let submits = (0..20).map(|_| stage.handle.submit(by("t", "a", "work 100")));
    let answers = futures_util::future::join_all(submits).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(accepted.len(), 3, "a free slot and two places");
    for answer in refused {
        assert_eq!(limit(answer), (3, 2), "what is on its way is counted");
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_may_have_limits_of_its_own() {
    let mut world = World::new(1);
    world.settings.max_running = 3;
    world.settings.max_running_per_caller = 1;
    world.settings.max_queued_per_caller = 1;
    let own = CallerLimits {
        running: Some(2),
        queued: Some(0),
    };
    world.settings.caller_limits = BTreeMap::from([("big".to_owned(), own)]);
    let stage = Stage::of(world).await;
    for _ in 0..2 {
        stage.send(by("big", "a", "work 5000")).await;
    }
    stage.send(by("small", "a", "work 5000")).await;
    sleep(500).await;
    assert_eq!(stage.load().await, (3, 0), "big has two slots, small one");
    assert_eq!(
        limit(stage.handle.submit(by("big", "a", "work 1")).await),
        (0, 0)
    );
    stage.send(by("small", "a", "work 1")).await;
    assert_eq!(
        limit(stage.handle.submit(by("small", "a", "work 1")).await),
        (1, 1)
    );
    stage.end().await;
}
