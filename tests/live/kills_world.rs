//! A Chargehand that dies: the real program on one data directory, started and killed many times, the real OpenCode, a scripted model.
//!
//! In: where to die, whom to kill. Out: a planner that always finds the living server, and at the end the evidence for the checker.
//! Dropping it ends every process that it started, also in a failed test.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{chargehand, opencode};
use crate::harness_outside::{PATIENCE, Worker, alive, processes, signal_to};
use crate::kills_planner::Planner;

/// Whom a kill hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Chargehand,
    Worker,
    Guard,
    ChargehandAndWorker,
    Everything,
}

impl Victim {
    /// Whether OpenCode dies.
    pub(crate) const fn takes_the_worker(self) -> bool {
        matches!(
            self,
            Self::Worker | Self::ChargehandAndWorker | Self::Everything
        )
    }
}

/// The world.
pub(crate) struct World {
    pub(crate) planner: Planner,
    directory: TempDir,
    child: Option<Child>,
    starts: u32,
    /// When workers were killed.
    pub(crate) worker_deaths: Vec<Instant>,
    _model: ScriptedModel,
}

impl World {
    /// Everything but a running server; none when there is no OpenCode and it is not required.
    pub(crate) async fn prepare() -> Option<Self> {
        let program = opencode().await?;
        let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
            .await
            .unwrap();
        let directory = tempfile::Builder::new()
            .prefix("chargehand-kill-")
            .tempdir()
            .unwrap();
        let mut config = opencode_provider_config(&model.base_url());
        config["permission"] = json!({"bash": {"*": "allow", "ask-first*": "ask"}});
        let settings = json!({
            "tasks": {"max_running": 4, "max_resumes": 2},
            "data": {"workdirs": directory.path().join("workdirs")},
            "engines": {"local": {"opencode": program, "opencode_config": config}},
            "engine": {"default": "local", "on_stop": "end_workers"},
            // A disk that others fill must not fail the test.
            "retention": {"min_free_mb": 0},
            "log": {"level": "info,chargehand_actors=debug"},
        });
        let text = toml::to_string(&settings).unwrap();
        std::fs::write(directory.path().join("chargehand.toml"), text).unwrap();
        Some(Self {
            planner: Planner::new(),
            directory,
            child: None,
            starts: 0,
            worker_deaths: Vec::new(),
            _model: model,
        })
    }

    /// Adds sections to the settings, for the next start.
    pub(crate) fn configure(&self, more: &Value) {
        let file = self.place().join("chargehand.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let more = toml::to_string(more).unwrap();
        std::fs::write(&file, format!("{text}\n{more}")).unwrap();
    }

    /// The directory of the test.
    pub(crate) fn place(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.place().join("data")
    }

    fn log(&self) -> PathBuf {
        self.place().join(format!("serve-{}.log", self.starts))
    }

    /// What the server of the last start has logged.
    fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Starts the server, told to die somewhere or not. Returns when it listens, or is already dead.
    pub(crate) async fn start(&mut self, die_at: Option<&str>) {
        self.starts += 1;
        let mut command = Command::new(chargehand());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--config")
            .arg(self.place().join("chargehand.toml"))
            .arg("--data-dir")
            .arg(self.data())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.place())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.log()).unwrap());
        if let Some(point) = die_at {
            command.env("CHARGEHAND_DIE_AT", point);
        }
        self.child = Some(command.spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = address_in(&self.logged()) {
                self.planner.listens_at(&address);
                return;
            }
            if self.has_died() {
                let expected = die_at.is_some() && self.logged().contains("chargehand: died at ");
                assert!(expected, "chargehand ended by itself: {}", self.logged());
                return;
            }
            assert!(
                Instant::now() < end,
                "it does not listen: {}",
                self.logged()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn has_died(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits until somebody, the server or a guard, has died at this point.
    pub(crate) async fn until_died_at(&mut self, point: &str) {
        let line = format!("chargehand: died at {point}\n");
        let end = Instant::now() + PATIENCE;
        loop {
            let dead = self.has_died();
            if self.logged().contains(&line) || self.guards_logged().contains(&line) {
                return;
            }
            assert!(
                !dead,
                "chargehand ended, but not at {point}: {}",
                self.logged()
            );
            assert!(Instant::now() < end, "{point} was never passed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn guards_logged(&self) -> String {
        let logs = std::fs::read_dir(self.data().join("local/logs"));
        let texts = logs.into_iter().flatten().flatten();
        texts
            .map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default())
            .collect()
    }

    /// SIGKILL to the server, if it still lives.
    pub(crate) fn kill_server(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            child.wait().unwrap();
        }
    }

    /// Waits until the engine is ready, or for so long.
    pub(crate) async fn ready_within(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let text = self.logged();
            let ready = text.rfind("\"engine is ready\"");
            if ready.is_some() && ready > text.rfind("\"reconnecting\"") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether no server runs.
    pub(crate) const fn is_down(&self) -> bool {
        self.child.is_none()
    }

    /// SIGKILL to somebody. Gives whether there was somebody.
    pub(crate) fn kill(&mut self, victim: Victim) -> bool {
        let recorded = std::fs::read(self.data().join("local/process.json")).ok();
        let recorded: Option<Value> = recorded.and_then(|text| serde_json::from_slice(&text).ok());
        let pid = |who: &str| {
            let pid = recorded.as_ref()?[who]["pid"].as_i64()?;
            i32::try_from(pid).ok().filter(|pid| alive(*pid))
        };
        let (worker, guard) = (pid("worker"), pid("guard"));
        let mut hit = false;
        if matches!(victim, Victim::Guard | Victim::Everything) {
            hit |= guard.is_some_and(kill_pid);
        }
        if victim.takes_the_worker() {
            self.worker_deaths.push(Instant::now());
            hit |= worker.is_some_and(kill_pid);
        }
        if matches!(
            victim,
            Victim::Chargehand | Victim::ChargehandAndWorker | Victim::Everything
        ) {
            self.kill_server();
            hit = true;
        }
        hit
    }

    /// The OpenCode that serves, once there is one.
    pub(crate) async fn worker(&self) -> Worker {
        crate::harness_outside::until("a worker is recorded", || async {
            Worker::recorded(&self.data().join("local"))
        })
        .await
    }

    /// The database of OpenCode.
    pub(crate) fn records(&self) -> PathBuf {
        self.data().join("local/xdg/data/opencode/opencode.db")
    }

    /// Processes that carry our mark or work in a workdir.
    pub(crate) fn ours(&self) -> Vec<i32> {
        let instance = std::fs::read_to_string(self.data().join("instance")).unwrap_or_default();
        let mark = format!("CHARGEHAND_OWNER={}/", instance.trim());
        let workdirs = self.place().join("workdirs");
        processes(|process| {
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            let mut all = environment.split(|byte| *byte == 0);
            all.any(|one| one.starts_with(mark.as_bytes()))
                || std::fs::read_link(process.join("cwd"))
                    .is_ok_and(|cwd| cwd.starts_with(&workdirs))
        })
    }

    /// Ends the server in order.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        signal_to(i32::try_from(child.id()).unwrap(), "-TERM");
        let end = Instant::now() + PATIENCE;
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            assert!(Instant::now() < end, "chargehand does not stop");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(ended.success(), "{ended}: {}", self.logged());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_server();
        if std::thread::panicking() {
            let text = self.logged();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("end of the log of start {}:", self.starts);
            let tail = lines.iter().skip(lines.len().saturating_sub(40));
            tail.for_each(|line| eprintln!("{line}"));
            if std::env::var_os("CHARGEHAND_TEST_KEEP").is_some() {
                self.directory.disable_cleanup(true);
                eprintln!("kept: {}", self.place().display());
            }
        }
        // Guards first would free their workers: all at once, and again until none is left.
        for _ in 0..100 {
            let left = self.ours();
            if left.is_empty() {
                return;
            }
            for pid in left {
                kill_pid(pid);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("processes of the test could not be ended");
    }
}

/// `kill -9`, by the program of that name. False = it was gone.
fn kill_pid(pid: i32) -> bool {
    let sent = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
    sent.unwrap().success()
}

fn address_in(log: &str) -> Option<String> {
    log.lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(line.get("address")?.as_str()?.to_owned())
    })
}
