//! Room actors: what people see comes from durable events, what people ask for is done once, and neither delays a task.

use chargehand_actors::event::{Event, Phase};
use chargehand_actors::fakes::{Fate, OutwardMode, World};
use chargehand_actors::id::TaskId;
use chargehand_actors::ports::{Place, Post, Said};

use crate::stage::{Stage, sleep};

pub(crate) fn world() -> World {
    let world = World::new(1);
    world.rooms.set(OutwardMode::Works);
    world
}

pub(crate) fn text(body: &str) -> Said {
    Said::Message {
        kind: "m.text".to_owned(),
        body: body.to_owned(),
        edit: false,
        content: serde_json::Map::new(),
    }
}

fn is_status(post: &Post) -> bool {
    post.about
        .get("event_type")
        .is_some_and(|word| word == "status_change")
        && post.about.contains_key("rev")
}

/// The events of a task that came from rooms.
pub(crate) fn from_rooms(world: &World, task: TaskId) -> Vec<String> {
    let origin = |event: Event| match event {
        Event::ControlReceived { from, by, .. } | Event::MessageReceived { from, by, .. } => {
            Some((from.0, by))
        }
        _ => None,
    };
    let events = world.journal.of(task).into_iter();
    events
        .filter_map(|committed| origin(committed.event))
        .filter(|(from, _)| from.starts_with("matrix "))
        .map(|(_, by)| by)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_room_shows_a_task_from_beginning_to_end() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 4000; work 4000; work 4000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(10_000).await;
    let rooms = &stage.world.rooms;
    let posts = rooms.posted(task);
    let statuses: Vec<&Post> = posts.iter().filter(|post| is_status(post)).collect();
    assert_eq!(statuses[0].place, Place::Room);
    assert!(
        statuses[1..]
            .iter()
            .all(|post| matches!(post.place, Place::Edit(_))),
        "one status, edited"
    );
    assert!(
        posts
            .iter()
            .all(|post| post.loud == (post.about["event_type"] == "task_completed"))
    );
    assert_eq!(rooms.ended(task), (true, false), "read-only, and kept");
    let signs = rooms.signs(task);
    assert_eq!(signs.len(), 3, "the buttons: {signs:?}");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_people_type_is_done_once_in_their_name_and_acknowledged() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 60000; work 60000").await;
    stage.works(task).await;
    sleep(3_000).await;
    let rooms = &stage.world.rooms;
    let pause = rooms.types(task, "!pause").unwrap();
    stage.reach(task, Phase::Paused).await;
    let message = rooms.types(task, "make it blue").unwrap();
    let resume = rooms.types(task, "!resume").unwrap();
    stage.reach(task, Phase::Running).await;
    sleep(3_000).await;
    let cancel = rooms.types(task, "!cancel enough").unwrap();
    stage.reach(task, Phase::Cancelled).await;
    sleep(20_000).await;
    let signs = rooms.signs(task);
    for (event, sign) in [
        (pause, "✅"),
        (message, "📨"),
        (resume, "✅"),
        (cancel, "✅"),
    ] {
        assert!(
            signs.contains(&(event.clone(), sign.to_owned())),
            "{event} {signs:?}"
        );
    }
    assert_eq!(from_rooms(&stage.world, task), vec!["@anna:fake"; 4]);
    let commands = rooms.commands(task);
    assert!(
        commands.iter().all(|(_, done)| done.is_some()),
        "{commands:?}"
    );
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn d2_a_control_in_a_room_takes_effect() {
    for said in [
        text("!cancel"),
        Said::Control(
            serde_json::json!({"control_signal": "cancel"})
                .as_object()
                .unwrap()
                .clone(),
        ),
    ] {
        let stage = Stage::of(world()).await;
        let task = stage.submit("work 600000").await;
        stage.works(task).await;
        sleep(3_000).await;
        let room = &stage.world.rooms;
        room.say(task, "@anna:fake", Some(50), said, true).unwrap();
        stage.reach(task, Phase::Cancelled).await;
        stage.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn d13_a_stranger_and_d10_the_bots_echo_change_nothing() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 30000").await;
    stage.works(task).await;
    sleep(3_000).await;
    let rooms = &stage.world.rooms;
    for said in [text("!cancel"), text("stop that"), text("!pause")] {
        rooms.say(task, "@eve:fake", Some(0), said, true).unwrap();
    }
    stage.reach(task, Phase::Completed).await;
    sleep(10_000).await;
    assert_eq!(from_rooms(&stage.world, task), Vec::<String>::new());
    stage.end().await;
}

/// Who attended the task, time after time.
pub(crate) fn attended(world: &World, task: TaskId) -> Vec<Vec<String>> {
    let events = world.journal.of(task).into_iter();
    let people = events.filter_map(|committed| match committed.event {
        Event::AttendanceChanged { people } => Some(people),
        _ => None,
    });
    people.collect()
}

#[tokio::test(start_paused = true)]
async fn somebody_who_may_steer_attends_the_task_from_joining_to_leaving() {
    let mut world = world();
    world.settings.rooms.allowed = vec!["@anna:fake".to_owned(), "@bob:fake".to_owned()];
    let stage = Stage::of(world).await;
    let task = stage.submit("work 600000").await;
    stage.works(task).await;
    sleep(3_000).await;
    assert!(attended(&stage.world, task).is_empty(), "nobody, no event");
    let rooms = &stage.world.rooms;
    // Without the power, or not on the list.
    assert!(rooms.moves(task, "@bob:fake", Some(0)));
    assert!(rooms.moves(task, "@eve:fake", Some(100)));
    sleep(3_000).await;
    assert!(attended(&stage.world, task).is_empty());
    assert!(rooms.moves(task, "@anna:fake", Some(50)));
    sleep(3_000).await;
    let anna = vec!["@anna:fake".to_owned()];
    assert_eq!(attended(&stage.world, task), vec![anna.clone()]);
    // While the homeserver is not there, and across a crash, what was known holds; then it is looked up.
    let world = stage.crash().await;
    world.rooms.moves(task, "@anna:fake", None);
    let stage = Stage::of(world).await;
    sleep(10_000).await;
    assert_eq!(attended(&stage.world, task), [anna, Vec::new()]);
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_the_stream_never_told_is_found_at_the_next_start() {
    let stage = Stage::of(world()).await;
    let task = stage.submit("work 600000").await;
    stage.works(task).await;
    sleep(3_000).await;
    let world = stage.crash().await;
    let said = text("!cancel while you were away");
    world
        .rooms
        .say(task, "@anna:fake", Some(50), said, false)
        .unwrap();
    let stage = Stage::of(world).await;
    stage.reach(task, Phase::Cancelled).await;
    sleep(20_000).await;
    assert_eq!(from_rooms(&stage.world, task).len(), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_a_command_neither_loses_nor_doubles_it() {
    // Every boundary before and after a port call, from the typing on.
    let mut crashed = 0;
    for moment in 1..60 {
        let stage = Stage::of(world()).await;
        let task = stage.submit("work 600000").await;
        stage.works(task).await;
        sleep(10_000).await;
        stage.world.trouble.fuse.set(Some(moment));
        let message = stage.world.rooms.types(task, "make it blue").unwrap();
        sleep(5_000).await;
        crashed += u32::from(stage.world.trouble.fuse.is_blown());
        let world = stage.crash().await;
        world.trouble.clear();
        let stage = Stage::of(world).await;
        sleep(60_000).await;
        assert_eq!(from_rooms(&stage.world, task).len(), 1, "moment {moment}");
        let signs = stage.world.rooms.signs(task);
        let acknowledged = signs.iter().filter(|(event, _)| *event == message).count();
        assert!(acknowledged >= 1, "moment {moment}: {signs:?}");
        let statuses = stage.world.rooms.posted(task);
        let fresh = statuses
            .iter()
            .filter(|p| is_status(p) && p.place == Place::Room);
        assert_eq!(fresh.count(), 1, "moment {moment}: one status");
        stage.cancel(task).await;
        stage.end().await;
    }
    assert!(crashed >= 20, "only {crashed} moments were in it");
}

#[tokio::test(start_paused = true)]
async fn a_homeserver_that_is_away_delays_nothing_and_is_told_everything_later() {
    let stage = Stage::of(world()).await;
    stage.world.rooms.set(OutwardMode::Fails);
    let task = stage.submit("work 2000").await;
    stage.reach(task, Phase::Completed).await;
    assert_eq!(stage.world.rooms.posted(task), []);
    sleep(3_600_000).await;
    stage.world.rooms.set(OutwardMode::Works);
    sleep(3_700_000).await;
    let posts = stage.world.rooms.posted(task);
    let ends = posts
        .iter()
        .filter(|post| post.about["event_type"] == "task_completed");
    assert_eq!(ends.count(), 1, "{posts:?}");
    assert!(stage.world.rooms.ended(task).0);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_post_whose_answer_is_lost_is_not_doubled() {
    let stage = Stage::of(world()).await;
    for _ in 0..3 {
        stage.world.trouble.next("rooms.post", Fate::FailAfter);
    }
    let task = stage.submit("work 2000; work 2000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(60_000).await;
    let posts = stage.world.rooms.posted(task);
    let fresh = posts
        .iter()
        .filter(|post| is_status(post) && post.place == Place::Room);
    assert_eq!(fresh.count(), 1);
    let told: Vec<u64> = posts
        .iter()
        .filter_map(|p| p.about.get("event")?.as_u64())
        .collect();
    assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "{told:?}");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn five_thousand_tools_neither_slow_the_task_nor_fill_one_message_with_edits() {
    let script = vec!["work 100"; 5_000].join("; ");
    let run = async |mode: OutwardMode| {
        let mut world = World::new(1);
        world.rooms.set(mode);
        world.settings.max_steps = 0;
        let stage = Stage::of(world).await;
        let mut asked = World::task(&script);
        asked.spec.timeout_ms = 7_200_000;
        let began = tokio::time::Instant::now();
        let task = stage.send(asked).await;
        stage.reach(task, Phase::Completed).await;
        let took = began.elapsed();
        sleep(60_000).await;
        let posts = stage.world.rooms.posted(task);
        stage.end().await;
        (took, posts)
    };
    let (without, _) = run(OutwardMode::Off).await;
    let (with, posts) = run(OutwardMode::Works).await;
    assert!(
        with < without + std::time::Duration::from_secs(1),
        "{with:?}, without rooms {without:?}"
    );
    let mut edits = std::collections::BTreeMap::<&str, usize>::new();
    for post in &posts {
        if let Place::Edit(edited) = &post.place {
            *edits.entry(edited).or_default() += 1;
        }
    }
    let most = edits.values().max().copied().unwrap_or_default();
    assert!((10..=100).contains(&most), "{most} edits of one message");
    // Tools are told in batches, not one by one.
    assert!(posts.len() < 1_500, "{} posts", posts.len());
}
