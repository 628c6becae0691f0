//! What a task did to files: while it runs, after it, and as a patch and a branch that others can use.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::process::Command;

use base64::Engine;
use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Client, Product, Setup, turns, wait_for};

fn write(path: &str, content: &str) -> Value {
    json!({"tools": [{"name": "write", "args": {"filePath": format!("{{{{cwd}}}}/{path}"), "content": content}}]})
}

/// Path -> mark, of what `get_task_files` lists with a mark.
async fn marks(planner: &Client, task: &str) -> Vec<(String, String)> {
    let list = planner.ok("get_task_files", json!({"task_id": task})).await;
    let entries = list["entries"].as_array().unwrap();
    let marked = entries.iter().filter_map(|entry| {
        let mark = entry.get("change")?.as_str()?.to_owned();
        Some((entry["path"].as_str()?.to_owned(), mark))
    });
    marked.collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_tools_and_of_the_shell_are_told_during_the_run_and_after_it() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let shell = "printf 'by the shell\\n' > made.txt; printf '\\000\\001\\377' > raw.bin; mkdir -p sub; \
                 head -c 100000 /dev/zero | tr '\\0' 'x' > sub/long.txt; ln -s /etc/passwd link; rm base.txt";
    let source = product.directory.path().join("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("base.txt"), "gone soon\n").unwrap();
    std::fs::write(source.join("kept.txt"), "stays\n").unwrap();
    std::fs::write(source.join("edit.txt"), "one\ntwo\n").unwrap();
    let script = turns(json!([
        write("new.txt", "first\nsecond\n"),
        {"tools": [{"name": "read", "args": {"filePath": "{{cwd}}/edit.txt"}}]},
        {"tools": [{"name": "edit", "args": {"filePath": "{{cwd}}/edit.txt", "oldString": "two", "newString": "three\nfour"}}]},
        bash(shell),
        bash(&wait_for(&gate)),
        {"text": "Files are there."}]));
    let id = planner.submit(script, json!({"directory": source})).await;

    planner
        .until(&id, "the shell has run", |seen| {
            seen["steps"].as_u64() >= Some(4)
        })
        .await;
    let all = pairs(&[
        ("base.txt", "deleted"),
        ("edit.txt", "modified"),
        ("link", "added"),
        ("made.txt", "added"),
        ("new.txt", "added"),
        ("raw.bin", "added"),
        ("sub/long.txt", "added"),
    ]);
    assert_eq!(marks(planner, &id).await, all, "during the run");
    assert_eq!(
        planner.file(&id, "edit.txt").await["content"],
        "one\nthree\nfour\n"
    );
    std::fs::write(&gate, "").unwrap();

    let seen = product.ended(&id, "completed").await;
    assert_eq!(marks(planner, &id).await, all, "after the run");
    let raw = planner.file(&id, "raw.bin").await;
    assert_eq!(raw["encoding"], "base64");
    let bytes = base64::engine::general_purpose::STANDARD.decode(raw["content"].as_str().unwrap());
    assert_eq!(bytes.unwrap(), [0, 1, 255]);
    let mut whole = String::new();
    let mut offset = json!(0);
    while offset.is_u64() {
        let asked =
            json!({"task_id": id, "file_path": "sub/long.txt", "offset": offset, "limit": 30_000});
        let piece = planner.ok("read_task_file", asked).await;
        whole.push_str(piece["content"].as_str().unwrap());
        assert_eq!(piece["size"], 100_000);
        offset = piece["next_offset"].clone();
    }
    assert_eq!(whole, "x".repeat(100_000));
    for path in ["link", "../chargehand.toml", "/etc/passwd", "sub"] {
        planner
            .refused("read_task_file", json!({"task_id": id, "file_path": path}))
            .await;
    }
    let listed = planner
        .ok("get_task_files", json!({"task_id": id, "path": "sub/"}))
        .await;
    assert_eq!(listed["files"], json!(["sub/long.txt"]));

    let changes = &seen["changes"];
    assert_eq!(changes["files_total"], 7, "{changes:#}");
    // new 2, edit 2, made 1, long 1, link 1 lines came; base 1 and edit 1 went.
    assert_eq!(
        (&changes["additions"], &changes["deletions"]),
        (&json!(7), &json!(2)),
        "{changes:#}"
    );
    let diff = planner.artifact(&id, "changes.diff").await.unwrap();
    for part in ["+by the shell", "-gone soon", "-two", "+three", "+second"] {
        assert!(diff.contains(part), "{part}: {diff}");
    }
    assert!(
        !diff.contains("stays"),
        "an unchanged file is no part of the diff"
    );
    // The original was copied, not touched.
    assert_eq!(
        std::fs::read_to_string(source.join("edit.txt")).unwrap(),
        "one\ntwo\n"
    );
    assert!(source.join("base.txt").exists() && !source.join("new.txt").exists());
    product.stop().await;
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let done = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    assert!(
        done.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    text
}

/// Two commits on `main`, the first one tagged `v1`, and a branch `feature` from it.
fn repository(directory: &Path) {
    std::fs::create_dir_all(directory.join("src")).unwrap();
    git(directory, &["init", "-q"]);
    std::fs::write(directory.join("README.md"), "version one\n").unwrap();
    std::fs::write(directory.join("src/old.txt"), "old\n").unwrap();
    git(directory, &["add", "."]);
    git(directory, &["commit", "-q", "-m", "first"]);
    git(directory, &["tag", "v1"]);
    git(directory, &["checkout", "-q", "-b", "feature"]);
    std::fs::write(directory.join("feature.txt"), "feature\n").unwrap();
    git(directory, &["add", "."]);
    git(directory, &["commit", "-q", "-m", "feature"]);
    git(directory, &["checkout", "-q", "main"]);
    std::fs::write(directory.join("README.md"), "version two\n").unwrap();
    git(directory, &["commit", "-q", "-a", "-m", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_repository_gives_a_patch_and_a_branch_that_fit() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let planner = &product.client;
    let origin = product.directory.path().join("origin");
    repository(&origin);
    let url = format!("file://{}", origin.display());
    let change = "echo more >> README.md; git rm -q src/old.txt; mkdir -p new; printf 'a\\000b' > new/raw; printf 'x\\n' > new/x.txt";
    let script = turns(json!([bash(change), {"text": "Changed."}]));
    let id = planner
        .submit(script, json!({"repository": {"url": url}}))
        .await;
    let of_tag = async {
        let script = turns(json!([bash("cat README.md; ls"), {"text": "{{last_tool}}"}]));
        let id = planner
            .submit(script, json!({"repository": {"url": url, "ref": "v1"}}))
            .await;
        let seen = product.ended(&id, "completed").await;
        let output = seen["output"].as_str().unwrap();
        assert!(
            output.contains("version one") && !output.contains("feature.txt"),
            "{output}"
        );
        assert_eq!(seen["changes"]["files_total"], 0);
    };
    let of_branch = async {
        let script = turns(json!([bash("cat README.md; ls"), {"text": "{{last_tool}}"}]));
        let id = planner
            .submit(
                script,
                json!({"repository": {"url": url, "ref": "feature"}}),
            )
            .await;
        let seen = product.ended(&id, "completed").await;
        let output = seen["output"].as_str().unwrap();
        assert!(
            output.contains("version one") && output.contains("feature.txt"),
            "{output}"
        );
    };
    let ((), (), seen) = tokio::join!(of_tag, of_branch, product.ended(&id, "completed"));

    let changes = &seen["changes"];
    let files: Vec<(String, String)> = changes["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            (
                file["path"].as_str().unwrap().to_owned(),
                file["change"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let wanted = [
        ("README.md", "modified"),
        ("new/raw", "added"),
        ("new/x.txt", "added"),
        ("src/old.txt", "deleted"),
    ];
    assert_eq!(files, pairs(&wanted));

    let clone = product.directory.path().join("clone");
    let here = product.directory.path();
    git(here, &["clone", "-q", &url, "clone"]);
    let patch = here.join("from-artifact.patch");
    std::fs::write(&patch, planner.artifact(&id, "changes.diff").await.unwrap()).unwrap();
    for patch in [
        patch.to_str().unwrap(),
        changes["patch_file"].as_str().unwrap(),
    ] {
        git(&clone, &["apply", "--check", patch]);
    }
    let head = git(&clone, &["rev-parse", "HEAD"]);
    let branch = changes["branch"].as_str().unwrap();
    assert_eq!(branch, format!("chargehand/{}", &id[..8]));
    let kept = product.data().join(format!("baselines/{id}/1/repo.git"));
    git(&clone, &["fetch", "-q", kept.to_str().unwrap(), branch]);
    assert_eq!(
        git(&clone, &["rev-parse", "FETCH_HEAD^"]),
        head,
        "it stands on the cloned commit"
    );
    git(&clone, &["merge", "-q", "--ff-only", "FETCH_HEAD"]);
    assert_eq!(
        std::fs::read_to_string(clone.join("README.md")).unwrap(),
        "version two\nmore\n"
    );
    assert_eq!(std::fs::read(clone.join("new/raw")).unwrap(), b"a\0b");
    assert!(!clone.join("src/old.txt").exists());
    assert_eq!(
        git(&origin, &["rev-parse", "HEAD"]),
        head,
        "the origin was not touched"
    );
    assert_eq!(git(&origin, &["status", "--porcelain"]), "");
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_fails_the_task_with_what_to_do() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let planner = &product.client;
    let origin = product.directory.path().join("origin");
    repository(&origin);
    let url = format!("file://{}", origin.display());
    let nowhere = product.directory.path().join("nowhere");
    let cases = [
        (
            json!({"repository": {"url": format!("file://{}", nowhere.display())}}),
            "nowhere",
        ),
        (
            json!({"repository": {"url": url, "ref": "no-such-branch"}}),
            "no-such-branch",
        ),
        (json!({"directory": nowhere}), "nowhere"),
        (json!({"directory": product.data()}), "data"),
    ];
    for (source, part) in cases {
        let id = planner
            .submit(turns(json!([{"text": "Never said."}])), source)
            .await;
        let seen = product.ended(&id, "failed").await;
        assert_eq!(
            (&seen["error_kind"], &seen["exit_code"]),
            (&json!("workdir"), &json!(1)),
            "{seen:#}"
        );
        let error = seen["error"].as_str().unwrap();
        assert!(error.contains(part), "{error}");
    }
    for url in ["http://127.0.0.1/x", "--upload-pack=id", "ext::sh -c id"] {
        let arguments = json!({"task_description": "x", "repository": {"url": url}});
        let refusal = planner.refused("opencode_execute_task", arguments).await;
        assert_eq!(refusal["fields"][0]["field"], "repository.url");
    }
    assert_eq!(product.model_calls(), 0);
    product.stop().await;
}
