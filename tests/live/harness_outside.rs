//! Looking from outside at what Chargehand says: OpenCode's own records over HTTP, the processes of the machine, files.
//!
//! In: an engine's directory, a pid, a path. Out: what is really there.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::end_leftovers;
use chargehand_actors::id::{EngineName, InstanceId};
use serde_json::{Map, Value, json};

/// How long anything that should happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// An OpenCode server, spoken to past Chargehand.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) pid: i32,
    pub(crate) url: String,
    pub(crate) password: String,
}

impl Worker {
    /// From the records of the engine `local`; none while it is not up.
    pub(crate) fn recorded(directory: &Path) -> Option<Self> {
        let json = |name: &str| -> Option<Value> {
            serde_json::from_slice(&std::fs::read(directory.join(name)).ok()?).ok()
        };
        let (record, process) = (json("record.json")?, json("process.json")?);
        let log = std::fs::read_to_string(record["log"].as_str()?).ok()?;
        let (_, port) = log
            .lines()
            .find(|line| line.contains("listening on"))?
            .rsplit_once(':')?;
        let pid = i32::try_from(process["worker"]["pid"].as_i64()?).ok()?;
        alive(pid).then(|| Self {
            pid,
            url: format!("http://127.0.0.1:{}", port.trim()),
            password: record["password"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// A GET; none = not found.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http
            .get(format!("{}{path}", self.url))
            .basic_auth("opencode", Some(&self.password));
        let response = request
            .timeout(Duration::from_secs(30))
            .send()
            .await
            .unwrap();
        if response.status() == 404 {
            return None;
        }
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        response.json().await.ok()
    }

    /// A POST with a JSON body and answer.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http
            .post(format!("{}{path}", self.url))
            .basic_auth("opencode", Some(&self.password));
        let response = request
            .json(&body)
            .timeout(Duration::from_secs(30))
            .send()
            .await
            .unwrap();
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        response.json().await.unwrap()
    }

    /// A session by its id.
    pub(crate) async fn session(&self, id: &str) -> Option<Value> {
        self.get(&format!("/session/{id}")).await
    }

    /// Sends it a signal by the program `kill`.
    pub(crate) fn signal(&self, signal: &str) {
        signal_to(self.pid, signal);
    }
}

/// Sends a signal by the program `kill`.
pub(crate) fn signal_to(pid: i32, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Whether a process runs (a zombie does not).
pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Pids of the processes whose directory in `/proc` fits.
pub(crate) fn processes(fits: impl Fn(&Path) -> bool) -> Vec<i32> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .parse::<i32>()
            .ok()
            .filter(|pid| name != own && alive(*pid));
        if let Some(pid) = pid
            && fits(&entry.path())
        {
            found.push(pid);
        }
    }
    found
}

/// Ends whatever the engine `local` of a data directory left running, and what a start that was under way still brings:
/// a test may end in the middle of one. For destructors: blocks, on a thread of its own, because a test's runtime may be
/// shutting down.
pub(crate) fn end_everything(data: PathBuf, instance: InstanceId) {
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        loop {
            runtime
                .block_on(end_leftovers(&data, &EngineName::new("local"), &instance))
                .map_err(|error| error.to_string())?;
            std::thread::sleep(Duration::from_millis(100));
            if marked(&instance).is_empty() {
                return Ok::<(), String>(());
            }
        }
    })
    .join();
    if !matches!(ended, Ok(Ok(()))) {
        eprintln!("the worker of the test could not be ended: {ended:?}");
    }
}

/// Pids of every process that carries the mark of this instance.
pub(crate) fn marked(instance: &InstanceId) -> Vec<i32> {
    let mark = format!("CHARGEHAND_OWNER={instance}/");
    processes(|process| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one.starts_with(mark.as_bytes()))
    })
}

/// Processes that work in a directory.
pub(crate) fn working_in(directory: &str) -> Vec<i32> {
    processes(|process| {
        std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
    })
}

/// Waits until no process works in the directory any more.
pub(crate) async fn gone_from(directory: &str) {
    let what = format!("no process works in {directory}");
    until(&what, || async {
        working_in(directory).is_empty().then_some(())
    })
    .await;
}

/// Repeats until there is something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts the lines of a file; 0 when it is not there.
pub(crate) fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// The largest number of entries that held at the same time, by samples that a test takes.
#[derive(Default)]
pub(crate) struct Peak(Mutex<Map<String, Value>>);

impl Peak {
    pub(crate) fn note(&self, name: &str, value: usize) {
        let mut peaks = self.0.lock().unwrap();
        let known = peaks.get(name).and_then(Value::as_u64).unwrap_or(0);
        peaks.insert(name.to_owned(), json!(known.max(value as u64)));
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0
            .lock()
            .unwrap()
            .get(name)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }
}
