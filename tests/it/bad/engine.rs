//! An OpenCode that is not there, is too old, or does not behave: told by name with what to do; tasks wait or fail with the
//! reason, and the server goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::cli_support::command;
use crate::mcp::client::Client;

/// A real server whose engine `local` uses this OpenCode.
struct Served {
    child: Child,
    url: String,
    place: tempfile::TempDir,
}

impl Served {
    /// `prepare` gives the path of OpenCode, if one is configured, and the `PATH` of the server.
    async fn with(prepare: impl FnOnce(&Path) -> (Option<PathBuf>, Option<PathBuf>)) -> Self {
        let place = tempfile::Builder::new()
            .prefix("chargehand-bad-")
            .tempdir()
            .unwrap();
        let (opencode, path) = prepare(place.path());
        let mut server = command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        server
            .arg("--data-dir")
            .arg(place.path().join("data"))
            .env("HOME", place.path())
            .env("XDG_CONFIG_HOME", place.path())
            .env("CHARGEHAND_ENGINE_ON_STOP", "end_workers")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(opencode) = opencode {
            server.env("CHARGEHAND_ENGINES_LOCAL_OPENCODE", opencode);
        }
        if let Some(path) = path {
            server.env("PATH", path);
        }
        let mut child = server.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
            let line = line.unwrap().unwrap().expect("the server ended");
            let line: Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = line["address"].as_str() {
                break format!("http://{address}");
            }
        };
        // A pipe that nobody reads would stop the server when it is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, url, place }
    }

    /// Waits until the part `engine local` says `text`; gives all that it says.
    async fn engine_says(&self, client: &Client, text: &str) -> String {
        let mut last = String::new();
        // Longer than an OpenCode may take to listen.
        for _ in 0..1_500 {
            let health = client.ok("health", json!({})).await;
            let parts = health["parts"].as_array().unwrap();
            let part = parts
                .iter()
                .find(|part| part["name"] == "engine local")
                .unwrap();
            assert_ne!(part["state"], "ok", "{part}");
            last = part.to_string();
            if last.contains(text) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never said {text:?}: {last}");
    }

    /// Stops it in order; no process of it is left.
    async fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        assert_eq!(ended.unwrap().unwrap().code(), Some(0));
        let mark = self.place.path().to_str().unwrap();
        let left: Vec<String> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                line.contains(mark).then_some(line)
            })
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// A program that stands where npm puts OpenCode's own: `--version` says `version`, everything else does `rest`.
fn opencode(place: &Path, version: &str, rest: &str) -> PathBuf {
    let arch = if cfg!(target_arch = "x86_64") {
        "x64"
    } else {
        "arm64"
    };
    let modules = place.join("node_modules");
    let native = modules.join(format!("opencode-linux-{arch}/bin/opencode"));
    let wrapper = modules.join("opencode-ai/bin/opencode");
    for (path, text) in [
        (
            &native,
            format!(
                "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{version}'; exit 0; fi\n{rest}\n"
            ),
        ),
        (&wrapper, "#!/bin/sh\n".to_owned()),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    wrapper
}

/// The engine says `says`; a task is accepted, waits, tells why, and can be cancelled.
async fn waits(name: &str, served: Served, says: &[&str]) {
    let client = Client::stateless(&served.url);
    let told = served.engine_says(&client, says[0]).await;
    for part in says {
        assert!(told.contains(part), "{name}: no {part:?} in: {told}");
    }
    let task = client.task_in("Waits for an engine.", "queued").await;
    let status = client.ok("get_task_status", json!({"task_id": task})).await;
    let waiting = status["waiting_for"].as_str().unwrap_or_default();
    assert!(waiting.contains("engine"), "{name}: {status:#}");
    let cancel = json!({"task_id": task, "control": "cancel"});
    let ended = client.ok("send_task_control", cancel).await;
    assert_eq!(ended["status"], "cancelled", "{name}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opencode_that_is_not_there_is_told_with_its_path() {
    let served = Served::with(|place| (Some(place.join("nowhere/opencode")), None)).await;
    waits(
        "missing",
        served,
        &["OpenCode is not at", "nowhere/opencode", "correct the path"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opencode_that_is_too_old_is_told_with_the_version_that_is_needed() {
    let served = Served::with(|place| (Some(opencode(place, "1.2.9", "exit 1")), None)).await;
    waits(
        "too old",
        served,
        &["1.2.9 is too old", "1.3.0 or newer", "npm install"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_opencode_is_told_as_such() {
    let served = Served::with(|_| (Some(PathBuf::from("/bin/false")), None)).await;
    waits(
        "no OpenCode",
        served,
        &["does not work as OpenCode", "set another path"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_run_is_told_as_such() {
    let served = Served::with(|place| {
        let path = place.join("opencode");
        fs::write(&path, "no program").unwrap();
        (Some(path), None)
    })
    .await;
    waits(
        "no program",
        served,
        &["does not work as OpenCode", "set another path"],
    )
    .await;
}

/// Its package is believed once; after the start that failed it is run, which says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_whose_program_does_not_run_is_told_as_such() {
    let served = Served::with(|place| {
        let package = place.join("opencode-linux-x64");
        let program = package.join("bin/opencode");
        fs::create_dir_all(package.join("bin")).unwrap();
        fs::write(
            package.join("package.json"),
            r#"{"name": "opencode-linux-x64", "version": "1.18.33"}"#,
        )
        .unwrap();
        fs::copy("/bin/false", &program).unwrap();
        (Some(program), None)
    })
    .await;
    waits(
        "a package that lies",
        served,
        &["does not work as OpenCode", "set another path"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opencode_that_ends_at_once_is_told_with_its_last_words() {
    let served = Served::with(|place| {
        (
            Some(opencode(
                place,
                "1.18.33",
                "echo 'no such luck' >&2; exit 3",
            )),
            None,
        )
    })
    .await;
    waits("ends at once", served, &["no such luck", "its log says"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opencode_that_lies_about_its_port_is_not_believed() {
    let lie = "echo 'opencode server listening on http://127.0.0.1:9'; exec sleep 300";
    let served = Served::with(|place| (Some(opencode(place, "1.18.33", lie)), None)).await;
    waits(
        "lies",
        served,
        &["engine does not answer: Connection refused"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opencode_that_prints_garbage_and_never_listens_holds_up_nobody() {
    let garbage = "head -c 100000 /dev/urandom; exec sleep 300";
    let served = Served::with(|place| (Some(opencode(place, "1.18.33", garbage)), None)).await;
    waits(
        "garbage",
        served,
        &["OpenCode did not listen within 90 s", "its log says"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_opencode_and_npm_it_says_what_to_install() {
    let served = Served::with(|place| {
        let path = place.join("bin");
        fs::create_dir(&path).unwrap();
        (None, Some(path))
    })
    .await;
    waits(
        "no npm",
        served,
        &["npm", "is not there either", "install Node.js"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_registry_cannot_be_reached_it_says_what_npm_said() {
    let served = Served::with(|place| {
        let path = place.join("bin");
        fs::create_dir(&path).unwrap();
        let npm = path.join("npm");
        fs::write(
            &npm,
            "#!/bin/sh\necho 'npm error network request to the registry failed' >&2\nexit 1\n",
        )
        .unwrap();
        fs::set_permissions(npm, PermissionsExt::from_mode(0o755)).unwrap();
        (None, Some(path))
    })
    .await;
    waits(
        "no registry",
        served,
        &[
            "npm could not install",
            "network request to the registry failed",
            "npm install --prefix",
        ],
    )
    .await;
}
