//! Gathers what the checker judges: OpenCode's own database, the effects, `/proc`, directories, and Chargehand's public answers.
//!
//! In: a world whose tasks have all ended. Out: [`Evidence`]. OpenCode deletes a session with all that is in it; triggers, laid into its
//! database before the first task, keep a copy of every row as it was stored last.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

use crate::checker::{Delegated, Evidence, Message, Part, Session};
use crate::harness_outside::{PATIENCE, until};
use crate::kills_jobs::{Done, Kind, effects};
use crate::kills_world::World;

/// The tables and their columns, whose rows are kept.
const KEPT: [(&str, &str); 3] = [
    ("session", "id, metadata, parent_id"),
    ("message", "id, session_id, data"),
    ("part", "id, session_id, message_id, data"),
];

async fn open(records: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(records)
        .busy_timeout(Duration::from_secs(20))
        .connect()
        .await
        .unwrap()
}

/// From now on nothing that OpenCode stores is lost. It must have been started once on its data.
pub(crate) async fn keep_everything(world: &World) {
    let records = world.records();
    until("OpenCode has a database", || async {
        records.exists().then_some(())
    })
    .await;
    let mut database = open(&records).await;
    for (table, columns) in KEPT {
        let new = format!("NEW.{}", columns.replace(", ", ", NEW."));
        let mut statements = vec![format!(
            "CREATE TABLE IF NOT EXISTS kept_{table} AS SELECT {columns} FROM {table} WHERE 0"
        )];
        for change in ["INSERT", "UPDATE"] {
            statements.push(format!(
                "CREATE TRIGGER IF NOT EXISTS keep_{table}_{change} AFTER {change} ON {table} BEGIN
                   DELETE FROM kept_{table} WHERE id = NEW.id;
                   INSERT INTO kept_{table} VALUES ({new});
                 END"
            ));
        }
        statements.push(format!(
            "CREATE INDEX IF NOT EXISTS kept_{table}_id ON kept_{table} (id)"
        ));
        for statement in statements {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut database)
                .await
                .unwrap();
        }
    }
}

async fn rows(database: &mut SqliteConnection, sql: &str) -> Vec<Vec<String>> {
    let found = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .fetch_all(database)
        .await
        .unwrap();
    found
        .iter()
        .map(|row| {
            (0..row.len())
                .map(|at| row.get::<Option<String>, _>(at).unwrap_or_default())
                .collect()
        })
        .collect()
}

/// Waits until every attempt is said to be removed, then gathers.
pub(crate) async fn gather(world: &World, jobs: &[Done]) -> Evidence {
    let mut evidence = Evidence::default();
    for job in jobs {
        let (status, history) = told(world, &job.task).await;
        let during = |at: &&Instant| (job.from..=job.to).contains(*at);
        evidence.tasks.push(Delegated {
            tag: job.tag.clone(),
            id: job.task.clone(),
            id_again: job.task_again.clone(),
            wanted: job.wanted.clone(),
            meddled: matches!(
                job.kind,
                Kind::Pause | Kind::Hold | Kind::Cancel | Kind::Timeout
            ),
            steps: match job.kind {
                Kind::Steps | Kind::Pause | Kind::Hold => 2,
                Kind::Message | Kind::Asked | Kind::Cancel | Kind::Timeout => 1,
                Kind::Plain | Kind::Stream | Kind::Denied => 0,
            },
            status,
            history,
            worker_deaths: world.worker_deaths.iter().filter(during).count(),
        });
    }
    evidence.listed = world.planner.listed().await;
    from_opencode(world, &mut evidence).await;
    let lines = std::fs::read_to_string(effects(world.place())).unwrap_or_default();
    evidence.lines = lines.lines().map(ToOwned::to_owned).collect();
    evidence.left.workdirs = workdirs(world);
    evidence.left.processes = strangers(world).await;
    evidence
}

/// Status and history of a task whose attempt is gone.
async fn told(world: &World, task: &str) -> (Value, Vec<Value>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = world.planner.status(task).await;
        let history = world.planner.history(task).await;
        let has = |word: &str| history.iter().any(|event| event["event"] == word);
        if !has("attempt_started") || has("attempt_removed") {
            return (status, history);
        }
        assert!(
            Instant::now() < end,
            "{task} is never removed: {history:#?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn from_opencode(world: &World, evidence: &mut Evidence) {
    let mut database = open(&world.records()).await;
    let instance = std::fs::read_to_string(world.data().join("instance")).unwrap();
    for row in rows(
        &mut database,
        "SELECT id, metadata, parent_id FROM kept_session",
    )
    .await
    {
        let metadata: Value = serde_json::from_str(&row[1]).unwrap_or_default();
        let owner = &metadata["chargehand"];
        if owner["instance"] == instance.trim() && row[2].is_empty() {
            evidence.sessions.push(Session {
                id: row[0].clone(),
                task: owner["task"].as_str().unwrap().to_owned(),
                attempt: owner["attempt"].as_u64().unwrap(),
            });
        }
    }
    let data = |text: &str| serde_json::from_str(text).unwrap_or_default();
    for row in rows(
        &mut database,
        "SELECT id, session_id, data FROM kept_message",
    )
    .await
    {
        evidence.messages.push(Message {
            id: row[0].clone(),
            session: row[1].clone(),
            data: data(&row[2]),
        });
    }
    for row in rows(
        &mut database,
        "SELECT message_id, session_id, data FROM kept_part",
    )
    .await
    {
        evidence.parts.push(Part {
            message: row[0].clone(),
            session: row[1].clone(),
            data: data(&row[2]),
        });
    }
    // What is left is asked of the living server.
    let all = world
        .worker()
        .await
        .get("/experimental/session?limit=10000")
        .await;
    let all = all.as_ref().and_then(Value::as_array).into_iter().flatten();
    let left = all.filter_map(|session| session["id"].as_str().map(ToOwned::to_owned));
    evidence.left.sessions = left.collect();
}

/// Names below the two directories, as (task, attempt).
fn workdirs(world: &World) -> Vec<(String, String)> {
    let bases = [
        world.place().join("workdirs"),
        world.data().join("baselines"),
    ];
    let tasks = bases.iter().flat_map(|base| directories(base));
    tasks
        .flat_map(|task| {
            let attempts = directories(&task);
            attempts.into_iter().map(move |at| (name(&task), name(&at)))
        })
        .collect()
}

fn directories(base: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Processes that are neither the worker nor its guard, after a while that a shell may need to end.
async fn strangers(world: &World) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let record = std::fs::read(world.data().join("local/process.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let known = [&record["worker"]["pid"], &record["guard"]["pid"]].map(Value::as_i64);
        let mut left = BTreeMap::new();
        for pid in world.ours() {
            if !known.contains(&Some(i64::from(pid))) {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                left.insert(pid, String::from_utf8_lossy(&line).replace('\0', " "));
            }
        }
        if left.is_empty() || Instant::now() > end {
            return left
                .into_iter()
                .map(|(pid, line)| format!("{pid} {line}"))
                .collect();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
