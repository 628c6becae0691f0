//! An OpenCode server that the test runs itself, for the engine `remote`.
//!
//! In: a program, a home, a model. Out: a server that can be killed and started again on the same data; ended when dropped.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use serde_json::{Value, json};

use crate::harness_product::{Worker, until};

/// Of this test alone: OpenCode takes the first free port from 4096 on, so the server of another test may come to listen where this
/// one's was killed, and must not be taken for it.
pub(crate) fn password() -> String {
    format!("only-for-the-test-{}", std::process::id())
}

/// An `opencode serve` of the test's own.
pub(crate) struct Foreign {
    child: Child,
    pub(crate) worker: Worker,
    program: PathBuf,
    home: PathBuf,
    config: String,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Foreign {
    pub(crate) async fn start(program: &Path, home: &Path, model: &ScriptedModel) -> Self {
        std::fs::create_dir_all(home).unwrap();
        let config = opencode_provider_config(&model.base_url()).to_string();
        let child = spawn(program, home, &config);
        let worker = listening(&child, home).await;
        Self {
            child,
            worker,
            program: program.to_owned(),
            home: home.to_owned(),
            config,
        }
    }

    /// `kill -9`, waited for.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Another one on the same data, at another port.
    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.home, &self.config);
        self.worker = listening(&self.child, &self.home).await;
    }

    /// A session of somebody else, of a directory.
    pub(crate) async fn session(&self, directory: &Path, metadata: Value) -> String {
        let body = json!({"title": "not Chargehand's", "metadata": metadata});
        let made = self
            .worker
            .post(&format!("/session?directory={}", directory.display()), body)
            .await;
        made["id"].as_str().unwrap().to_owned()
    }

    /// All its sessions.
    pub(crate) async fn sessions(&self) -> Vec<Value> {
        let all = self.worker.get("/experimental/session?limit=1000").await;
        all.unwrap().as_array().unwrap().clone()
    }

    /// Chargehand and the server on one machine: the workdirs have the same path for both.
    pub(crate) fn same_paths(&self) -> Value {
        same_paths(&self.worker.url)
    }

    pub(crate) fn setting(&self) -> Value {
        json!({"url": self.worker.url, "password": self.worker.password})
    }
}

/// The engine's settings when the server is reached at another address.
pub(crate) fn same_paths(url: &str) -> Value {
    json!({"url": url, "password": password(),
           "path_map": {"{place}/data/workdirs": "{place}/data/workdirs"}})
}

fn spawn(program: &Path, home: &Path, config: &str) -> Child {
    Command::new(program)
        .args(["serve", "--hostname", "127.0.0.1", "--port", "0"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("PWD", home)
        .env("OPENCODE_CONFIG_CONTENT", config)
        .env("OPENCODE_SERVER_PASSWORD", password())
        .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
        .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .env("npm_config_registry", "http://127.0.0.1:9")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(File::create(home.join("serve.log")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn listening(child: &Child, home: &Path) -> Worker {
    let log = home.join("serve.log");
    let port = until("the foreign server listens", || async {
        let text = std::fs::read_to_string(&log).ok()?;
        let (_, port) = text
            .lines()
            .find(|line| line.contains("listening on"))?
            .rsplit_once(':')?;
        port.trim().parse::<u16>().ok()
    })
    .await;
    Worker {
        pid: i32::try_from(child.id()).unwrap(),
        url: format!("http://127.0.0.1:{port}"),
        password: password(),
    }
}
