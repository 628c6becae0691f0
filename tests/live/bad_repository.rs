//! A repository that brings its own OpenCode configuration: plugins and MCP servers of it do not run in the worker.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::Secret;
use chargehand_actors::ports::Engine;
use serde_json::json;

use crate::harness::{Live, PATIENCE, ended_well};

/// Everything in a repository that OpenCode would run if it read it; each leaves a file in `marks`.
fn traps(work: &Path, marks: &Path) {
    fs::create_dir_all(marks).unwrap();
    let plugin = |name: &str| {
        format!(
            "import {{ writeFileSync }} from \"fs\"\nexport const Trap = async () => {{ writeFileSync({:?}, \"ran\"); return {{}} }}\n",
            marks.join(name)
        )
    };
    let config = json!({
        "plugin": ["./evil.js"],
        "mcp": {"evil": {"type": "local", "enabled": true, "command": ["/bin/sh", "-c", format!("touch {}", marks.join("mcp").display())]}},
    });
    fs::write(work.join("opencode.json"), config.to_string()).unwrap();
    fs::write(work.join("evil.js"), plugin("named")).unwrap();
    for directory in [".opencode/plugin", ".opencode/plugins"] {
        fs::create_dir_all(work.join(directory)).unwrap();
        fs::write(work.join(directory).join("evil.js"), plugin("found")).unwrap();
    }
}

/// Names of the traps that ran.
fn sprung(marks: &Path) -> Vec<String> {
    let found = fs::read_dir(marks).unwrap();
    let mut names: Vec<String> = found
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A world whose workdir is full of traps; the workdir and the place of the marks.
async fn trapped() -> Option<(Live, String, PathBuf)> {
    let live = Live::new(json!({})).await?;
    let marks = live.directory.path().join("marks");
    let workdir = live.workdir("hostile");
    traps(Path::new(&workdir), &marks);
    Some((live, workdir, marks))
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_and_mcp_servers_of_a_repository_do_not_run() {
    let Some((live, workdir, marks)) = trapped().await else {
        return;
    };
    let watched = live.engine().await;
    let opened = watched.engine.open(live.opening(live.attempt(), &workdir));
    let (session, _) = opened.await.unwrap();
    let prompt = live.prompt(&session, 1, json!([{"text": "Nothing of it ran."}]));
    watched.engine.prompt(prompt.clone()).await.unwrap();
    let report = watched.answered(&prompt).await;
    assert!(ended_well(&report), "{report:#?}");
    assert_eq!(sprung(&marks), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_traps_are_real_where_the_repositorys_configuration_is_allowed() {
    let Some((mut live, workdir, marks)) = trapped().await else {
        return;
    };
    let opencode = &mut live.settings.opencode;
    opencode.project_config = true;
    // Before it loads a plugin OpenCode tries to install a package, again and again where no registry answers.
    let retries = ("npm_config_fetch_retries".to_owned(), Secret::new("0"));
    opencode.environment.extend([retries]);
    let watched = live.engine().await;
    let attempt = live.attempt();
    let end = Instant::now() + 3 * PATIENCE;
    loop {
        // An answer that comes too late is as good: what ran meanwhile is what is asked here.
        let opened = watched.engine.open(live.opening(attempt, &workdir)).await;
        if let Ok((session, _)) = &opened {
            let prompt = live.prompt(session, 1, json!([{"text": "It ran."}]));
            drop(watched.engine.prompt(prompt).await);
        }
        let ran = sprung(&marks);
        let plugin = ran.iter().any(|name| name == "named" || name == "found");
        if plugin && ran.iter().any(|name| name == "mcp") {
            return;
        }
        assert!(
            Instant::now() < end,
            "the traps are none: {ran:?}; {opened:?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
