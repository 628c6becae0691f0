//! The ordinary life of a task.

use std::time::Duration;

use chargehand_actors::event::Phase;
use chargehand_actors::fakes::World;
use chargehand_actors::ports::StopHow;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_task_runs_to_its_end_and_leaves_nothing_behind() {
    let world = World::new(1);
    let tree = world.start().await.unwrap();
    let handle = tree.handle();
    let task = World::submit(&handle, "work 500; say 100; work 200")
        .await
        .unwrap()
        .task;
    let view = World::finish(&handle, task, MINUTE).await.unwrap();
    assert_eq!(
        view.phase,
        Phase::Completed,
        "{}",
        world.trouble.trace.tail(80)
    );
    let result = view.result.unwrap();
    assert_eq!(result.text, "all done");
    assert_eq!(result.usage.input, 40);
    assert_eq!(result.changes.files_total, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        world.life(task),
        [
            "task_accepted",
            "attempt_started",
            "workdir_prepared",
            "session_wanted",
            "session_opened",
            "prompt_wanted",
            "prompt_accepted",
            "prompt_taken_up",
            "run_ended",
            "task_completed",
            "attempt_removed",
        ]
    );
    assert!(world.engine.truths().is_empty());
    assert_eq!(world.stop(tree, StopHow::EndWorkers).await, [""; 0]);
}
