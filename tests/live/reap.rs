//! `chargehand reap`: Chargehand is killed and its data directory deleted; what it left is found by its mark, and only that
//! is removed.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use chargehand::adapters::opencode::end_processes_of;
use chargehand::scripted_model::ScriptedModel;
use chargehand_actors::id::InstanceId;
use serde_json::{Value, json};

use crate::harness::{bash, chargehand, opencode};
use crate::harness_foreign::Foreign;
use crate::harness_product::{Product, Setup, alive, signal_to, turns, until};

/// Runs the command as an operator with the product's configuration would, off a terminal.
fn reap(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(chargehand())
        .args(["reap", "--config"])
        .arg(directory.join("chargehand.toml"))
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let texts = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(texts).unwrap()
}

/// Refused with this in its text, and nothing done.
fn refused(output: &Output, why: &str) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains(why), "{said}");
    assert!(said.contains("nothing was removed"), "{said}");
}

/// Ends what a failed test leaves: the product itself no longer knows its instance.
struct Cleanup(InstanceId);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let instance = self.0.clone();
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.map(|runtime| runtime.block_on(end_processes_of(&instance)))
        });
        drop(ended.join());
    }
}

/// A directory into which somebody may still write.
async fn delete(directory: PathBuf) {
    until("the data directory is deleted", || async {
        drop(std::fs::remove_dir_all(&directory));
        (!directory.join("instance").exists()).then_some(())
    })
    .await;
}

async fn ours(foreign: &Foreign, instance: &InstanceId) -> usize {
    let all = foreign.worker.get("/experimental/session?limit=1000").await;
    let all = all
        .iter()
        .flat_map(|all| all.as_array().into_iter().flatten());
    all.filter(|one| one["metadata"]["chargehand"]["instance"] == instance.0.as_str())
        .count()
}

async fn busy(product: &Product, engine: &str) {
    let script = turns(json!([bash("sleep 606"), {"text": "Never."}]));
    let planner = &product.client;
    let id = planner.submit(script, json!({"engine": engine})).await;
    planner
        .until(&id, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_data_directory_left_is_found_and_removed_and_nothing_else() {
    let Some(program) = opencode().await else {
        return;
    };
    let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
        .await
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    let foreign = Foreign::start(&program, &place.path().join("home"), &model).await;
    let setup = Setup {
        more: json!({
            "data": {"workdirs": "{place}/workdirs"},
            "engines": {"remote": {"url": foreign.worker.url, "password": foreign.worker.password,
                "path_map": {"{place}/workdirs": "{place}/workdirs"}}},
        }),
        ..Setup::default()
    };
    let Some(mut product) = Product::start(setup).await else {
        return;
    };
    let directory = product.directory.path().to_owned();
    let (instance, workdirs) = (product.instance(), directory.join("workdirs"));
    let id = instance.0.as_str();
    let _cleanup = Cleanup(instance.clone());

    // What is not ours: somebody's session, a session and a workdir of another instance, one without a mark.
    let other = json!({"chargehand": {"instance": "ffffffffffff", "task": uuid(7), "attempt": 1}});
    let strangers = [
        foreign.session(place.path(), json!({})).await,
        foreign.session(place.path(), other).await,
    ];
    for (name, mark) in [(uuid(8), Some("ffffffffffff\n")), (uuid(9), None)] {
        std::fs::create_dir_all(workdirs.join(&name)).unwrap();
        if let Some(mark) = mark {
            std::fs::write(workdirs.join(&name).join("instance"), mark).unwrap();
        }
    }
    busy(&product, "local").await;
    busy(&product, "remote").await;
    let marked = product.marked();
    assert!(marked.len() >= 3, "a guard, a worker, a shell: {marked:?}");
    assert_eq!(ours(&foreign, &instance).await, 1);

    // While it runs, whatever becomes of its directory, and while the directory is there.
    let list = said(&reap(&directory, &[]));
    assert!(list.contains(id) && list.contains("ffffffffffff"), "{list}");
    let with = ["--instance", id, "--yes"];
    refused(&reap(&directory, &with), "still runs");
    let server = product.pid();
    signal_to(server, "-STOP");
    let moved = directory.join("moved");
    std::fs::rename(product.data(), &moved).unwrap();
    refused(&reap(&directory, &with), "still runs");
    std::fs::rename(&moved, product.data()).unwrap();
    product.kill();
    refused(&reap(&directory, &with), "has its data directory");
    delete(product.data()).await;

    // Nobody consents where nobody can be asked.
    let asked = reap(&directory, &["--instance", id]);
    refused(&asked, "--yes");
    let listed = said(&asked);
    for pid in &marked {
        assert!(listed.contains(&format!("process  {pid} ")), "{listed}");
        assert!(alive(*pid), "{pid} is not alive");
    }
    assert_eq!(listed.matches("workdir  task ").count(), 2, "{listed}");
    assert_eq!(listed.matches("session  ").count(), 1, "{listed}");

    let reaped = reap(&directory, &with);
    assert!(reaped.status.success(), "{}", said(&reaped));
    assert_eq!(marked_of(id), Vec::<i32>::new());
    for pid in marked {
        assert!(!alive(pid), "{pid} is alive");
    }
    assert_eq!(ours(&foreign, &instance).await, 0);
    for session in strangers {
        assert!(foreign.worker.session(&session).await.is_some());
    }
    let mut left: Vec<String> = std::fs::read_dir(&workdirs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, [uuid(8), uuid(9)]);
    let again = reap(&directory, &with);
    assert!(said(&again).contains("Nothing carries"), "{}", said(&again));
    assert!(again.status.success());
    let json = reap(&directory, &["--json"]);
    let all: Vec<Value> = serde_json::from_slice(&json.stdout).unwrap();
    assert!(all.iter().all(|one| one["instance"] != id), "{all:?}");
}

fn uuid(n: u128) -> String {
    uuid::Uuid::from_u128(n).to_string()
}

fn marked_of(instance: &str) -> Vec<i32> {
    let mark = format!("CHARGEHAND_OWNER={instance}/");
    crate::harness_product::processes(|process| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|one| one.starts_with(mark.as_bytes()))
    })
}
