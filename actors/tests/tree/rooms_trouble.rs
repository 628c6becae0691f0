//! Rooms whose homeserver refuses, limits or shuts out: what was asked for is done once, nothing is waited for that does not come.

use std::time::Duration;

use chargehand_actors::event::{Event, Phase};
use chargehand_actors::fakes::{Fate, OutwardMode, World};
use chargehand_actors::id::{RequestId, TaskId};
use chargehand_actors::ports::{Post, RoomError, Said};
use chargehand_actors::tree::RoomQuestion;

use crate::rooms::{attended, from_rooms, text, world};
use crate::stage::{Stage, sleep};

const LATER: RoomError = RoomError::Later(Duration::from_secs(5));

fn never() -> RoomError {
    RoomError::Permanent("scripted: never".to_owned())
}

/// Posts about this type of event.
fn about(world: &World, task: TaskId, kind: &str) -> Vec<Post> {
    let posts = world.rooms.posted(task).into_iter();
    posts
        .filter(|post| post.about["event_type"] == kind)
        .collect()
}

/// Requests that were answered from rooms.
fn answered(world: &World, task: TaskId) -> Vec<RequestId> {
    let events = world.journal.of(task).into_iter();
    let answers = events.filter_map(|committed| match committed.event {
        Event::AnswerWanted { request, from, .. } if from.0.starts_with("matrix ") => Some(request),
        _ => None,
    });
    answers.collect()
}

/// A task that asks this, somebody attends it, and its room shows the request.
async fn asks(stage: &Stage, script: &str) -> (TaskId, RequestId) {
    let mut submit = World::task(script);
    submit.spec.attended = true;
    let task = stage.send(submit).await;
    let view = stage.reach(task, Phase::InputRequired).await;
    sleep(10_000).await;
    (task, view.requests[0].request.id.clone())
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_done_while_the_homeserver_takes_no_acknowledgement() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 3600000").await;
    stage.works(task).await;
    sleep(10_000).await;
    let rooms = &stage.world.rooms;
    rooms.answer("rooms.react", Some(LATER));
    rooms.answer("rooms.post", Some(LATER));
    let hint = rooms.types(task, "make it blue").unwrap();
    sleep(2_000).await;
    rooms.types(task, "!status").unwrap();
    let cancel = rooms.types(task, "!cancel").unwrap();
    let began = tokio::time::Instant::now();
    stage.reach(task, Phase::Cancelled).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "cancelled after {took:?}");
    sleep(60_000).await;
    assert!(rooms.signs(task).iter().all(|(event, _)| *event != hint));
    rooms.answer("rooms.react", None);
    rooms.answer("rooms.post", None);
    sleep(60_000).await;
    let signs = rooms.signs(task);
    for (event, sign) in [(&hint, "📨"), (&cancel, "✅")] {
        let sign = (event.clone(), sign.to_owned());
        assert!(signs.contains(&sign), "{sign:?} in {signs:?}");
    }
    assert_eq!(about(&stage.world, task, "reply").len(), 1, "of !status");
    assert_eq!(from_rooms(&stage.world, task).len(), 2, "each is done once");
    assert!(rooms.ended(task).0, "and the room is closed");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_meets_a_task_that_is_started_again_is_done_then() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 3600000").await;
    stage.works(task).await;
    sleep(10_000).await;
    // The task's actor dies with the command.
    stage.world.ids.panic_next(1);
    let message = stage.world.rooms.types(task, "make it blue").unwrap();
    sleep(60_000).await;
    assert_eq!(from_rooms(&stage.world, task).len(), 1);
    let signs = stage.world.rooms.signs(task);
    assert!(signs.contains(&(message, "📨".to_owned())), "{signs:?}");
    assert!(about(&stage.world, task, "reply").is_empty());
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn commands_are_done_although_nobody_can_say_who_watches() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 3600000").await;
    stage.works(task).await;
    sleep(3_000).await;
    let rooms = &stage.world.rooms;
    let away = RoomError::Transient("scripted: not now".to_owned());
    rooms.answer("rooms.people", Some(away));
    assert!(rooms.moves(task, "@anna:fake", Some(50)));
    sleep(30_000).await;
    rooms.types(task, "!pause").unwrap();
    let began = tokio::time::Instant::now();
    stage.reach(task, Phase::Paused).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "paused after {took:?}");
    assert!(attended(&stage.world, task).is_empty());
    rooms.answer("rooms.people", None);
    sleep(90_000).await;
    assert_eq!(attended(&stage.world, task), [["@anna:fake"]]);
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_added_or_removed_by_the_planner_or_leaves_attends_or_does_not() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 3600000").await;
    stage.works(task).await;
    sleep(3_000).await;
    let rooms = &stage.world.rooms;
    let user = || "@olga:fake".to_owned();
    let operator = World::operator();
    let add = |steer| RoomQuestion::Add {
        user: user(),
        steer,
    };
    stage.handle.room(&operator, task, add(true)).await.unwrap();
    sleep(3_000).await;
    assert!(attended(&stage.world, task).is_empty(), "only invited");
    assert!(rooms.joins(task, "@olga:fake"));
    sleep(3_000).await;
    let (olga, nobody) = (vec![user()], Vec::new());
    assert_eq!(attended(&stage.world, task), std::slice::from_ref(&olga));
    // No power any more.
    stage
        .handle
        .room(&operator, task, add(false))
        .await
        .unwrap();
    sleep(3_000).await;
    assert_eq!(attended(&stage.world, task), [olga.clone(), nobody.clone()]);
    stage.handle.room(&operator, task, add(true)).await.unwrap();
    sleep(3_000).await;
    let remove = RoomQuestion::Remove { user: user() };
    stage.handle.room(&operator, task, remove).await.unwrap();
    sleep(3_000).await;
    assert_eq!(attended(&stage.world, task).len(), 4);
    assert_eq!(attended(&stage.world, task)[3], nobody);
    // Somebody comes and goes by herself.
    rooms.moves(task, "@anna:fake", Some(50));
    sleep(3_000).await;
    rooms.moves(task, "@anna:fake", None);
    sleep(3_000).await;
    assert_eq!(attended(&stage.world, task).len(), 6);
    assert_eq!(attended(&stage.world, task)[5], nobody);
    stage.cancel(task).await;
    stage.end().await;
}

/// A task that somebody attends, and its world after a crash.
async fn watched() -> (World, TaskId) {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 3600000").await;
    stage.works(task).await;
    sleep(3_000).await;
    assert!(stage.world.rooms.moves(task, "@anna:fake", Some(50)));
    sleep(3_000).await;
    assert_eq!(attended(&stage.world, task), [["@anna:fake"]]);
    (stage.crash().await, task)
}

#[tokio::test(start_paused = true)]
async fn nobody_attends_where_rooms_are_off_or_shut_or_the_login_is_lost() {
    let lost = || RoomError::LoginLost("scripted: who are you?".to_owned());
    for (mode, people) in [
        (OutwardMode::Off, None),
        (OutwardMode::Works, Some(never())),
        (OutwardMode::Works, Some(lost())),
    ] {
        let (world, task) = watched().await;
        world.rooms.set(mode);
        world.rooms.answer("rooms.people", people.clone());
        if people == Some(lost()) {
            world.rooms.answer("rooms.listen", Some(lost()));
        }
        let stage = Stage::of(world).await;
        sleep(20_000).await;
        let last = attended(&stage.world, task).pop().unwrap();
        assert!(last.is_empty(), "{mode:?} {people:?}: {last:?}");
        assert_eq!(stage.phase(task).await, Phase::Running);
        stage.cancel(task).await;
        stage.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_is_refused_for_good_holds_up_neither_the_rest_nor_the_end() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 20000; work 4000").await;
    stage.works(task).await;
    sleep(10_000).await;
    let rooms = &stage.world.rooms;
    rooms.refuse(|post| post.about.contains_key("event") && !post.key.ends_with(".instead"));
    rooms.answer("rooms.attach", Some(never()));
    stage.message(task, "a hint of the planner").await.unwrap();
    stage.reach(task, Phase::Completed).await;
    sleep(60_000).await;
    let ends = about(&stage.world, task, "task_completed");
    assert_eq!(ends.len(), 1);
    assert!(ends[0].loud, "it still calls");
    assert!(format!("{:?}", ends[0].body).contains("refuses the whole message"));
    assert!(rooms.ended(task).0, "closed, without files");
    assert_eq!(rooms.files(task), Vec::<String>::new());
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn somebody_who_cannot_be_invited_holds_up_nobody_and_is_not_tried_at_every_telling() {
    let mut world = world();
    let user = |name: &str| format!("@{name}:fake");
    world.settings.rooms.operators = ["far", "gone", "near"].map(user).to_vec();
    let away = RoomError::Transient("scripted: no answer of the other homeserver".to_owned());
    world.rooms.unreachable(&user("far"), Some(away));
    world.rooms.unreachable(&user("gone"), Some(never()));
    let stage = Stage::of(world).await;
    let rooms = &stage.world.rooms;
    let task = stage.submit(&["work 1000"; 130].join("; ")).await;
    stage.works(task).await;
    sleep(3_000).await;
    let first: Vec<(String, bool)> = [("far", false), ("gone", false), ("near", true)]
        .map(|(name, could)| (user(name), could))
        .to_vec();
    assert_eq!(rooms.invited(task), first, "each once");
    sleep(100_000).await;
    let tries = rooms.invited(task).split_off(3);
    assert!(
        (1..=4).contains(&tries.len()) && tries.iter().all(|(who, _)| *who == user("far")),
        "{tries:?}"
    );
    assert!(rooms.posted(task).len() > 10, "there were more tellings");
    // The homeserver is there again: at once, and never again.
    rooms.unreachable(&user("far"), None);
    rooms.up();
    sleep(3_000).await;
    let far = (user("far"), true);
    assert_eq!(rooms.invited(task).last(), Some(&far));
    let tried = rooms.invited(task).len();
    sleep(15_000).await;
    assert_eq!(rooms.invited(task).len(), tried);
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn files_that_cannot_be_uploaded_hold_up_no_end_and_come_later() {
    for crash in [false, true] {
        let mut stage = Stage::of(world()).await;
        let rooms = stage.world.rooms.clone();
        let away = RoomError::Transient("scripted: not now".to_owned());
        rooms.answer("rooms.attach", Some(away));
        let task = stage.submit("work 4000").await;
        stage.reach(task, Phase::Completed).await;
        sleep(30_000).await;
        assert_eq!(about(&stage.world, task, "task_completed").len(), 1);
        let statuses = about(&stage.world, task, "status_change");
        let last = statuses.iter().rfind(|post| post.about.contains_key("rev"));
        assert_eq!(last.unwrap().about["phase"], "completed", "the status");
        assert!(rooms.ended(task).0, "read-only");
        assert_eq!(rooms.files(task), Vec::<String>::new());
        // What was said last is answered too.
        assert!(rooms.types(task, "!status").is_some());
        sleep(5_000).await;
        assert_eq!(about(&stage.world, task, "reply").len(), 1);
        if crash {
            stage = Stage::of(stage.crash().await).await;
        }
        // Longer than the room's actor tries.
        sleep(1_000_000).await;
        rooms.answer("rooms.attach", None);
        rooms.up();
        sleep(30_000).await;
        assert_eq!(rooms.files(task), ["worker.log"], "crash {crash}");
        assert_eq!(about(&stage.world, task, "task_completed").len(), 1);
        stage.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn urgent_events_make_no_later_edit_come_faster_than_the_pace() {
    let mut world = world();
    world.settings.max_steps = 0;
    let stage = Stage::of(world).await;
    let script = [vec!["ask bash; work 300"; 20], vec!["work 100"; 600]].concat();
    let task = stage.submit(&script.join("; ")).await;
    let asked = |stage: &Stage| {
        let events = stage.world.journal.of(task).into_iter();
        events
            .filter(|committed| matches!(committed.event, Event::RequestOpened { .. }))
            .count()
    };
    stage.works(task).await;
    while asked(&stage) < 20 {
        sleep(500).await;
    }
    sleep(5_000).await;
    let edits = || about(&stage.world, task, "status_change").len();
    let before = edits();
    sleep(30_000).await;
    // The fake's pace is one in 1.5 s.
    let made = edits() - before;
    assert!((10..=21).contains(&made), "{made} edits in 30 s");
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sign_counts_although_the_buttons_are_not_there_yet() {
    let stage = Stage::of(world()).await;
    let rooms = stage.world.rooms.clone();
    rooms.answer("rooms.react", Some(LATER));
    let (task, request) = asks(&stage, "ask bash; work 1000").await;
    assert_eq!(rooms.signs(task), []);
    let asked = |post: &Post| post.about["event_type"] == "request";
    let sign = Said::Reaction {
        to: rooms.event_of(task, asked).unwrap(),
        sign: "✅".to_owned(),
    };
    rooms.say(task, "@anna:fake", Some(50), sign, true).unwrap();
    sleep(3_000).await;
    assert_eq!(answered(&stage.world, task), [request]);
    rooms.answer("rooms.react", None);
    stage.reach(task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_approval_is_for_what_was_asked_when_it_was_said() {
    let stage = Stage::of(world()).await;
    let rooms = &stage.world.rooms;
    let (task, first) = asks(
        &stage,
        "ask bash; work 10000; ask edit; question; work 1000",
    )
    .await;
    // Said, and not heard before another one is open.
    let said = text("!approve");
    rooms
        .say(task, "@anna:fake", Some(50), said, false)
        .unwrap();
    let allow = chargehand_actors::command::Answer::Allow { always: false };
    stage.answer(task, &first, allow).await.unwrap();
    stage.reach(task, Phase::Running).await;
    let second = stage.reach(task, Phase::InputRequired).await.requests[0].clone();
    sleep(10_000).await;
    rooms.types(task, "!status").unwrap();
    sleep(10_000).await;
    assert_eq!(answered(&stage.world, task), []);
    let replies = format!("{:?}", about(&stage.world, task, "reply"));
    assert!(replies.contains("asks something else now"), "{replies}");
    // Said now, it counts.
    rooms.types(task, "!approve").unwrap();
    stage.reach(task, Phase::Running).await;
    let third = stage.reach(task, Phase::InputRequired).await.requests[0].clone();
    sleep(10_000).await;
    rooms.types(task, "!answer 2").unwrap();
    stage.reach(task, Phase::Completed).await;
    let expected = [second.request.id, third.request.id];
    assert_eq!(answered(&stage.world, task), expected);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_room_is_told_at_once_when_the_homeserver_is_there_again() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 600000").await;
    stage.works(task).await;
    sleep(10_000).await;
    let rooms = &stage.world.rooms;
    rooms.set(OutwardMode::Fails);
    let said = text("!cancel");
    // Long enough for the longest back-off.
    sleep(120_000).await;
    rooms.say(task, "@anna:fake", Some(50), said, true).unwrap();
    stage.message(task, "a hint of the planner").await.unwrap();
    sleep(61_000).await;
    rooms.set(OutwardMode::Works);
    rooms.up();
    let began = tokio::time::Instant::now();
    stage.reach(task, Phase::Cancelled).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "heard after {took:?}");
    sleep(5_000).await;
    assert_eq!(about(&stage.world, task, "task_cancelled").len(), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn limits_are_no_failures_that_make_a_room_give_up() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 4000").await;
    let rooms = &stage.world.rooms;
    rooms.answer("rooms.close", Some(LATER));
    stage.reach(task, Phase::Completed).await;
    sleep(180_000).await;
    stage.world.trouble.next("rooms.close", Fate::FailBefore);
    rooms.answer("rooms.close", None);
    sleep(30_000).await;
    assert!(rooms.ended(task).0, "it goes on after one real failure");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn rooms_are_closed_however_late_and_left_when_their_time_is_over() {
    let mut world = world();
    world.settings.rooms.keep = Duration::from_secs(48 * 3_600);
    let stage = Stage::of(world).await;
    let rooms = &stage.world.rooms;
    let early = stage.submit("work 4000").await;
    stage.reach(early, Phase::Completed).await;
    sleep(60_000).await;
    assert_eq!(rooms.ended(early), (true, false));
    rooms.answer("rooms.close", Some(never()));
    let late = stage.submit("work 4000").await;
    stage.reach(late, Phase::Completed).await;
    sleep(30 * 3_600_000).await;
    assert_eq!(rooms.ended(late), (false, false));
    rooms.answer("rooms.close", None);
    sleep(2 * 3_600_000).await;
    assert_eq!(rooms.ended(late), (true, false), "more than a day later");
    sleep(17 * 3_600_000).await;
    assert_eq!(rooms.ended(early), (true, true));
    assert_eq!(rooms.ended(late), (true, false));
    // One that cannot be left now holds up no other, and is left an hour later.
    let third = stage.submit("work 4000").await;
    stage.reach(third, Phase::Completed).await;
    rooms.answer("rooms.close", Some(never()));
    let never_closed = stage.submit("work 4000").await;
    stage.reach(never_closed, Phase::Completed).await;
    let away = RoomError::Transient("scripted: not now".to_owned());
    rooms.answer("rooms.leave", Some(away));
    sleep(75 * 3_600_000).await;
    assert_eq!(rooms.ended(late), (true, false));
    rooms.answer("rooms.leave", None);
    stage.world.trouble.next("rooms.leave", Fate::FailBefore);
    sleep(3_700_000).await;
    let left = [late, third, never_closed].map(|task| rooms.ended(task).1);
    let left = left.iter().filter(|left| **left).count();
    assert_eq!(left, 2, "all but the one that failed");
    sleep(3_700_000).await;
    for task in [late, third, never_closed] {
        assert!(rooms.ended(task).1, "left, closed or not");
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_bot_is_no_observer_and_cannot_be_made_one_or_removed() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 3600000").await;
    stage.works(task).await;
    sleep(3_000).await;
    assert!(stage.world.rooms.moves(task, "@anna:fake", Some(50)));
    let operator = World::operator();
    let ask = |question| stage.handle.room(&operator, task, question);
    let bot = || "@bot:fake".to_owned();
    for question in [
        RoomQuestion::Remove { user: bot() },
        RoomQuestion::Add {
            user: bot(),
            steer: false,
        },
    ] {
        let error = ask(question).await.unwrap_err().to_string();
        assert!(error.contains("the bot itself"), "{error}");
    }
    let there = ask(RoomQuestion::People).await.unwrap().people;
    let there: Vec<&str> = there.iter().map(|person| person.id.as_str()).collect();
    assert_eq!(there, ["@anna:fake"]);
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_summary_is_said_and_the_same_one_is_not() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 4000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(10_000).await;
    for summary in ["It went well.", "It went well.", "It did not."] {
        let question = RoomQuestion::Archive {
            summary: Some(summary.to_owned()),
        };
        let operator = World::operator();
        let asked = stage.handle.room(&operator, task, question);
        asked.await.unwrap();
    }
    assert_eq!(about(&stage.world, task, "summary").len(), 2);
    stage.end().await;
}
