//! A whole tree on a disk that runs full: nothing new begins, and what runs still comes to its end, on record.

use std::sync::Arc;
use std::time::Duration;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand::adapters::system::DiskSpace;
use chargehand_actors::command::{Control, ControlSignal};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::{Event, Phase};
use chargehand_actors::fakes::World;
use chargehand_actors::id::EventNumber;
use chargehand_actors::ports::{JournalStore, StopHow};
use chargehand_actors::tree::{self, Ports};

use super::faults::SmallDisk;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_nothing_begins_and_everything_ends() {
    let Some(disk) = SmallDisk::mount("48m") else {
        return;
    };
    let journal = JournalSettings::at(disk.path().join("journal.db"));
    let store = SqliteJournal::open(journal.clone()).await.unwrap();
    let world = World::new(1);
    let ports = Ports {
        journal: Arc::new(store.clone()),
        space: Arc::new(DiskSpace::new(vec![disk.path().to_owned()], 24 << 20)),
        ..world.ports()
    };
    let mut settings = world.settings.clone();
    settings.max_running = 2;
    let tree = tree::start(settings, ports).await.unwrap();
    let handle = tree.handle();
    let mut tasks = Vec::new();
    for script in ["work 600000", "work 1500", "work 1"] {
        tasks.push(World::submit(&handle, script).await.unwrap().task);
    }
    for task in &tasks[..2] {
        let view = World::reach(&handle, *task, Phase::Running, PATIENCE).await;
        assert_eq!(view.unwrap().phase, Phase::Running);
    }
    disk.fill(0);
    // The last answer about the disk counts for some seconds.
    let refused = loop {
        match World::submit(&handle, "work 1").await {
            Ok(submitted) => tasks.push(submitted.task),
            Err(refused) => break refused,
        }
        assert!(tasks.len() < 90, "never refused");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let TreeError::DiskLow(why) = refused else {
        panic!("{refused}");
    };
    assert!(why.contains("MB are free on the disk of "), "{why}");
    let done = World::finish(&handle, tasks[1], PATIENCE).await.unwrap();
    assert_eq!(done.phase, Phase::Completed, "{:?}", done.failure);
    for task in tasks.iter().filter(|task| **task != tasks[1]) {
        let control = Control {
            task: *task,
            signal: ControlSignal::Cancel,
            reason: None,
        };
        // Those that began before the disk was called low may have done their work.
        match handle.control(&World::operator(), control).await {
            Ok(outcome) => assert_eq!(outcome.phase, Phase::Cancelled),
            Err(TreeError::WrongPhase { phase, .. }) => assert_eq!(phase, Phase::Completed),
            Err(error) => panic!("{error}"),
        }
    }
    tree.stop(StopHow::EndWorkers).await;
    store.close().await;

    // On record, read by another opening of the file.
    disk.clear();
    let store = SqliteJournal::open(journal).await.unwrap();
    for task in tasks {
        let events = store.events(task, EventNumber::ZERO, 0, 1_000).await;
        let events = events.unwrap();
        let finals = events.iter().filter(|e| e.event.is_final()).count();
        assert_eq!(finals, 1, "{events:#?}");
        let began = events.first().map(|first| &first.event);
        assert!(matches!(began, Some(Event::TaskAccepted { .. })));
    }
    store.close().await;
}
