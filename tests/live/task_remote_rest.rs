//! The engine `remote` without `path_map`: an OpenCode server with which Chargehand shares no disk.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{bash, opencode};
use crate::harness_foreign::password;
use crate::harness_product::wait_for;
use crate::harness_product::{Client, Product, Setup, Worker, turns, until};

/// An `opencode serve` that somebody else runs, in a repository with `base.txt` and `sub/inner.txt`. Ended when dropped.
struct Server {
    child: Child,
    worker: Worker,
    place: TempDir,
    _model: ScriptedModel,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// None when there is no OpenCode and it is not required.
    async fn start() -> Option<Self> {
        let program = opencode().await?;
        let place = tempfile::tempdir().unwrap();
        let project = place.path().join("project");
        std::fs::create_dir_all(project.join("sub")).unwrap();
        std::fs::create_dir_all(place.path().join("plain")).unwrap();
        std::fs::create_dir_all(place.path().join("home")).unwrap();
        std::fs::write(project.join("base.txt"), "base\n").unwrap();
        std::fs::write(project.join("sub/inner.txt"), "inner\n").unwrap();
        std::fs::write(project.join(".gitignore"), "target\n").unwrap();
        git(&project, &["init", "-q"]);
        git(&project, &["add", "-A"]);
        git(&project, &["commit", "-qm", "start"]);
        let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
            .await
            .unwrap();
        let log = place.path().join("serve.log");
        let child = Command::new(program)
            .args(["serve", "--hostname", "127.0.0.1", "--port", "0"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", place.path().join("home"))
            .env("PWD", &project)
            .env(
                "OPENCODE_CONFIG_CONTENT",
                opencode_provider_config(&model.base_url()).to_string(),
            )
            .env("OPENCODE_SERVER_PASSWORD", password())
            .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
            .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
            .env("npm_config_registry", "http://127.0.0.1:9")
            .current_dir(&project)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            worker: Worker {
                pid: i32::try_from(child.id()).unwrap(),
                url: String::new(),
                password: password(),
            },
            child,
            place,
            _model: model,
        };
        let port = until("the server listens", || async {
            let text = std::fs::read_to_string(&log).ok()?;
            let told = text.lines().find(|line| line.contains("listening on"))?;
            told.rsplit_once(':')?.1.trim().parse::<u16>().ok()
        })
        .await;
        server.worker.url = format!("http://127.0.0.1:{port}");
        Some(server)
    }

    fn project(&self) -> PathBuf {
        self.place.path().join("project")
    }

    /// `[engines.remote]`, with a directory or with the server's own.
    async fn product(&self, directory: Option<&str>) -> Product {
        let mut remote = json!({"url": self.worker.url, "password": password()});
        if let Some(directory) = directory {
            remote["directory"] = json!(self.place.path().join(directory));
        }
        let setup = Setup {
            remote: Some(remote),
            ..Setup::default()
        };
        Product::start(setup).await.unwrap()
    }

    /// A session of somebody else.
    async fn session(&self, metadata: Value) -> String {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let made = http
            .post(format!("{}/session", self.worker.url))
            .basic_auth("opencode", Some(password()))
            .json(&json!({"title": "somebody else's", "metadata": metadata}))
            .timeout(Duration::from_secs(30))
            .send()
            .await
            .unwrap();
        let made: Value = made.json().await.unwrap();
        made["id"].as_str().unwrap().to_owned()
    }
}

fn git(directory: &Path, args: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(args)
        .current_dir(directory)
        .status();
    assert!(done.unwrap().success());
}

fn write(path: &str, content: &str) -> Value {
    json!({"tools": [{"name": "write", "args": {"filePath": format!("{{{{cwd}}}}/{path}"), "content": content}}]})
}

/// Path -> mark of every file, and the note.
async fn listed(planner: &Client, task: &str, path: &str) -> (Vec<(String, String)>, String) {
    let asked = json!({"task_id": task, "path": path});
    let list = planner.ok("get_task_files", asked).await;
    let entries = list["entries"].as_array().unwrap().iter().map(|entry| {
        assert_eq!(entry.get("size"), None, "{entry}");
        let mark = entry["change"].as_str().unwrap_or("-").to_owned();
        (entry["path"].as_str().unwrap().to_owned(), mark)
    });
    (entries.collect(), list["note"].as_str().unwrap().to_owned())
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = wanted
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    owned.collect()
}

/// The task ended as `status`, its session is gone.
async fn ended(product: &Product, server: &Server, task: &str, status: &str) -> Value {
    let seen = product.client.final_status(task).await;
    assert_eq!(seen["status"], status, "{seen:#}");
    if let Some(session) = seen["session_id"].as_str() {
        product.client.until_event(task, "attempt_removed").await;
        assert_eq!(server.worker.session(session).await, None, "{session}");
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_diff_come_from_the_server() {
    let Some(server) = Server::start().await else {
        return;
    };
    let other = json!({"chargehand": {"instance": "000000000000", "task": "6b2b8c1e-0000-4000-8000-00000000000a", "attempt": 1}});
    let foreign = [server.session(json!({})).await, server.session(other).await];
    let mut product = server.product(None).await;
    let planner = product.client.clone();
    let gate = server.place.path().join("gate");
    let shell = "printf 'by the shell\\n' >> sub/inner.txt; rm base.txt; printf ' \\n exact \\n\\n' > exact.txt; \
                 printf '\\000\\377' > raw.bin; mkdir -p target; echo x > target/built; ln -s /etc/passwd link; \
                 echo '<html>' > page.html";
    let script = json!({
        "turns": [write("tool.txt", "by the tool\n"), bash(shell), bash(&wait_for(&gate)), {"text": "Done."}],
        "on_message": [{"contains": "more", "turns": [bash("echo more >> tool.txt"), {"text": "Done more."}]}]});
    let id = planner.submit(script, json!({})).await;
    let project = server.project();
    until("the shell has written", || async {
        project.join("page.html").exists().then_some(())
    })
    .await;

    // While it runs.
    let (files, note) = listed(&planner, &id, "/").await;
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            ".gitignore",
            "exact.txt",
            "page.html",
            "raw.bin",
            "sub/inner.txt",
            "tool.txt"
        ],
        "no .git, no link, nothing ignored"
    );
    assert!(note.contains(project.to_str().unwrap()), "{note}");
    assert_eq!(
        planner.file(&id, "exact.txt").await["content"],
        " \n exact \n\n"
    );
    planner.message(&id, "One thing more.").await;
    std::fs::write(&gate, "").unwrap();

    let seen = ended(&product, &server, &id, "completed").await;
    assert_eq!(seen["output"], "Done more.");
    assert_eq!(seen["directory"], project.to_str().unwrap());
    let changes = &seen["changes"];
    let marks: Vec<(&str, &str)> = changes["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            (
                file["path"].as_str().unwrap(),
                file["change"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("base.txt", "deleted"),
        ("exact.txt", "added"),
        ("link", "added"),
        ("page.html", "added"),
        ("raw.bin", "added"),
        ("sub/inner.txt", "modified"),
        ("tool.txt", "added"),
    ];
    assert_eq!(marks, expected, "{changes:#}");
    assert_eq!(changes.get("patch_file"), None);
    assert_eq!(changes.get("branch"), None);
    let note = changes["note"].as_str().unwrap();
    for words in ["no patch file and no branch", "share", "one diff for each"] {
        assert!(note.contains(words), "{note}");
    }
    let diff = planner.artifact(&id, "changes.diff").await.unwrap();
    for line in ["+by the tool", "+by the shell", "-base", "+more"] {
        assert!(diff.lines().any(|one| one == line), "{line}: {diff}");
    }

    // After it.
    let (files, _) = listed(&planner, &id, "/").await;
    let expected = [
        (".gitignore", "-"),
        ("base.txt", "deleted"),
        ("exact.txt", "added"),
        ("page.html", "added"),
        ("raw.bin", "added"),
        ("sub/inner.txt", "modified"),
        ("tool.txt", "added"),
    ];
    assert_eq!(files, pairs(&expected));
    let (files, _) = listed(&planner, &id, "target").await;
    assert_eq!(files, pairs(&[("target/built", "-")]));
    let raw = planner.file(&id, "raw.bin").await;
    assert_eq!(
        (&raw["encoding"], &raw["content"]),
        (&json!("base64"), &json!("AP8="))
    );
    assert_eq!(planner.file(&id, "page.html").await["content"], "<html>\n");
    assert_eq!(
        planner.file(&id, "tool.txt").await["content"],
        "by the tool\nmore\n"
    );
    for (path, words) in [
        ("../serve.log", "refused"),
        ("/etc/passwd", "outside of the workdir"),
        ("link", "no file"),
        ("sub", "is a directory"),
        (".git/config", "refused"),
        ("base.txt", "no file"),
    ] {
        let asked = json!({"task_id": id, "file_path": path});
        let refusal = planner.refused("read_task_file", asked).await;
        assert!(refusal.to_string().contains(words), "{path}: {refusal:#}");
    }

    // What only the process knew is gone after a restart, and is not made up.
    product.kill();
    product.start_again().await;
    let planner = product.client.clone();
    let (files, note) = listed(&planner, &id, "sub").await;
    assert_eq!(files, pairs(&[("sub/inner.txt", "-")]));
    assert!(note.contains("no file is marked"), "{note}");

    for session in &foreign {
        assert!(server.worker.session(session).await.is_some(), "{session}");
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_directory_is_used_and_a_repository_is_refused() {
    let Some(server) = Server::start().await else {
        return;
    };
    // A part of a repository: paths are those of the part.
    let product = server.product(Some("project/sub")).await;
    let planner = &product.client;
    let script = turns(json!([
        write("tool.txt", "by the tool\n"),
        bash("echo deep >> inner.txt; echo up >> ../base.txt; pwd"),
        {"text": "In {{last_tool}}"}]));
    let id = planner.submit(script, json!({})).await;
    let seen = ended(&product, &server, &id, "completed").await;
    let sub = server.project().join("sub");
    assert!(
        seen["output"]
            .as_str()
            .unwrap()
            .contains(sub.to_str().unwrap()),
        "{seen:#}"
    );
    let files = seen["changes"]["files"].as_array().unwrap();
    let paths: Vec<&str> = files
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        ["inner.txt", "tool.txt"],
        "what lies outside is not recorded: {seen:#}"
    );
    let (files, _) = listed(planner, &id, "/").await;
    assert_eq!(
        files,
        pairs(&[("inner.txt", "modified"), ("tool.txt", "added")])
    );
    for source in [
        json!({"repository": {"url": "https://example.org/a.git"}}),
        json!({"directory": server.project()}),
    ] {
        let id = planner
            .submit(turns(json!([{"text": "Never."}])), source)
            .await;
        let seen = ended(&product, &server, &id, "failed").await;
        let error = seen["error"].as_str().unwrap();
        assert!(
            error.contains("shares no disk") && error.contains("path_map"),
            "{error}"
        );
    }
    product.stop().await;

    // Without a repository OpenCode records nothing, and the result says so.
    let product = server.product(Some("plain")).await;
    let planner = &product.client;
    let script = turns(json!([write("tool.txt", "by the tool\n"), {"text": "Done."}]));
    let id = planner.submit(script, json!({})).await;
    let seen = ended(&product, &server, &id, "completed").await;
    assert_eq!(seen["changes"]["files_total"], 0);
    let note = seen["changes"]["note"].as_str().unwrap();
    assert!(note.contains("no git repository"), "{note}");
    let (files, note) = listed(planner, &id, "/").await;
    assert_eq!(files, pairs(&[("tool.txt", "-")]));
    assert!(note.contains("never recorded"), "{note}");
    product.stop().await;

    let product = server.product(Some("nowhere")).await;
    let id = product
        .client
        .submit(turns(json!([{"text": "Never."}])), json!({}))
        .await;
    let seen = ended(&product, &server, &id, "failed").await;
    let error = seen["error"].as_str().unwrap();
    assert!(error.contains("must exist there"), "{error}");
    product.stop().await;
}
