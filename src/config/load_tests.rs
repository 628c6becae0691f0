#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Reader, read_all};
use crate::config::{Settings, Sources, TokenRole};

const DOCUMENTED: &str = include_str!("../../config/chargehand.toml");

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(file: &str, env: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::load(Sources {
        file: file.to_owned(),
        env: pairs(env),
        flags: BTreeMap::new(),
    })
    .map_err(|error| error.to_string())
}

#[test]
fn nothing_set_is_the_default() {
    assert_eq!(load("", &[]).unwrap(), Settings::default());
}

#[test]
fn the_documented_file_is_the_default() {
    assert_eq!(load(DOCUMENTED, &[]).unwrap(), Settings::default());
}

#[test]
fn the_documented_file_names_every_setting() {
    let mut reader = Reader::new(toml::Table::new(), BTreeMap::new(), BTreeMap::new());
    read_all(&mut reader);
    let known = reader.known();
    assert!(known.len() > 30, "{known:?}");
    for path in known {
        let (section, name) = path.rsplit_once('.').unwrap();
        let (_, rest) = DOCUMENTED.split_once(&format!("\n[{section}]\n")).unwrap();
        let body = rest.split("\n[").next().unwrap();
        let named = body.lines().any(|line| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{name} ="))
        });
        assert!(named, "{path} is not explained in config/chargehand.toml");
    }
}

#[test]
fn a_directory_of_the_remote_server_is_absolute_and_excludes_a_path_map() {
    let file = |more: &str| format!("[engines.remote]\nurl = \"http://10.0.0.5:4096\"\n{more}");
    let settings = load(&file("directory = \"/srv/project\""), &[]).unwrap();
    let directory = settings.engines.remote.unwrap().directory;
    assert_eq!(directory.as_deref(), Some("/srv/project"));
    for (more, words) in [
        ("directory = \"project\"", "no absolute path"),
        (
            "directory = \"/srv\"\npath_map = { \"/a\" = \"/b\" }",
            "only one of them",
        ),
    ] {
        let error = load(&file(more), &[]).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn flags_win_over_environment_over_file() {
    let file = "[tasks]\nmax_running = 5\nmax_queued = 7\n[log]\nlevel = \"warn\"\n";
    let settings = Settings::load(Sources {
        file: file.to_owned(),
        env: pairs(&[
            ("CHARGEHAND_TASKS_MAX_QUEUED", "8"),
            ("CHARGEHAND_LOG_LEVEL", "debug"),
        ]),
        flags: pairs(&[("log.level", "trace")]),
    })
    .unwrap();
    assert_eq!(settings.tasks.max_running, 5);
    assert_eq!(settings.tasks.max_running_per_caller, 5);
    assert_eq!(settings.tasks.max_queued, 8);
    assert_eq!(settings.log.level, "trace");
}

#[test]
fn wrong_settings_name_themselves_and_what_is_allowed() {
    for (file, env, parts) in [
        (
            "[server]\nbind = \"here\"",
            vec![],
            vec!["server.bind", "here", "127.0.0.1:3500"],
        ),
        (
            "[server]\nbnid = \"127.0.0.1:1\"",
            vec![],
            vec!["server.bnid", "server.bind"],
        ),
        (
            "[tasks]\nmax_running = 0",
            vec![],
            vec!["tasks.max_running", "0", "1 to 1000"],
        ),
        (
            "[tasks]\nmax_running = \"many\"",
            vec![],
            vec!["tasks.max_running", "many"],
        ),
        (
            "",
            vec![("MAX_CONCURRENT_TASKS", "abc")],
            vec![
                "tasks.max_running",
                "MAX_CONCURRENT_TASKS",
                "abc",
                "1 to 1000",
            ],
        ),
        (
            "",
            vec![("CHARGEHAND_LOG_FORMAT", "xml")],
            vec!["CHARGEHAND_LOG_FORMAT", "xml", "text or json"],
        ),
        (
            "[engines.local]\nenabled = 3",
            vec![],
            vec!["engines.local.enabled", "true or false"],
        ),
        (
            "[engines.local]\nmodel = \"gpt\"",
            vec![],
            vec!["engines.local.model", "provider/model"],
        ),
        (
            "[engines.local]\nenabled = false",
            vec![],
            vec!["engine.default", "local", "not configured"],
        ),
        (
            "[engine]\ndefault = \"docker\"",
            vec![],
            vec!["engine.default", "docker", "local"],
        ),
        (
            "[engines.remote]\nurl = \"ftp://x\"",
            vec![],
            vec!["engines.remote.url", "http"],
        ),
        (
            "[engines.remote]\nurl = \"http://a:b@x\"",
            vec![],
            vec!["engines.remote.url", "credentials"],
        ),
        (
            "[tasks]\ndefault_timeout_ms = 5000\nmax_timeout_ms = 4000",
            vec![],
            vec!["default_timeout_ms", "4000"],
        ),
        (
            "[[auth.tokens]]\nname = \"a\"",
            vec![],
            vec!["auth.tokens[0].token", "token_file"],
        ),
        (
            "[[auth.tokens]]\nname = \"a\"\ntoken = \"short\"",
            vec![],
            vec!["token \"a\"", "16 bytes"],
        ),
        (
            "[[auth.tokens]]\nname = \"a\"\ntoken_file = \"/nowhere/at/all\"",
            vec![],
            vec!["token_file", "/nowhere/at/all"],
        ),
        (
            "[[auth.tokens]]\nname = \"a\"\ntoken = \"0123456789abcdef\"\nrole = \"king\"",
            vec![],
            vec!["role", "king", "operator"],
        ),
        (
            "",
            vec![("OPENCODE_SERVER_ENABLED", "true")],
            vec!["OPENCODE_SERVER_URL"],
        ),
        (
            "",
            vec![("OPENCODE_SERVER_ENABLED", "false")],
            vec![
                "engine.default",
                "docker",
                "CHARGEHAND_ENGINE_DEFAULT=local",
            ],
        ),
        (
            "",
            vec![("RUNNER_IMAGE", "x")],
            vec!["docker", "RUNNER_IMAGE"],
        ),
        ("not toml at all", vec![], vec!["no TOML"]),
    ] {
        let error = load(file, &env).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{file} {env:?}: {error} lacks {part}");
        }
    }
}

#[test]
fn off_loopback_a_token_is_required() {
    let error = load("", &[("MCP_HOST", "0.0.0.0")]).unwrap_err();
    assert!(error.contains("no token is configured"), "{error}");
    assert!(error.contains("CHARGEHAND_AUTH_TOKEN"), "{error}");
    let settings = load(
        "",
        &[
            ("MCP_HOST", "0.0.0.0"),
            ("MCP_PORT", "4000"),
            ("CHARGEHAND_AUTH_TOKEN", "0123456789abcdef"),
        ],
    )
    .unwrap();
    assert_eq!(settings.server.bind.to_string(), "0.0.0.0:4000");
    assert_eq!(settings.auth.tokens.len(), 1);
    assert_eq!(settings.auth.tokens[0].role, TokenRole::Operator);
}

#[test]
fn the_originals_server_mode_is_the_remote_engine() {
    let settings = load(
        "",
        &[
            ("OPENCODE_SERVER_ENABLED", "true"),
            ("OPENCODE_SERVER_URL", "http://opencode:3100"),
            ("RUNNER_TIMEOUT_MS", "60000"),
        ],
    )
    .unwrap();
    assert_eq!(settings.engine.default, "remote");
    assert_eq!(
        settings.engines.remote.unwrap().url.as_str(),
        "http://opencode:3100/"
    );
    assert_eq!(settings.tasks.default_timeout_ms, 60_000);
}

#[test]
fn an_explicit_engine_wins_over_the_originals_words() {
    let settings = load(
        "",
        &[
            ("OPENCODE_SERVER_ENABLED", "false"),
            ("CHARGEHAND_ENGINE_DEFAULT", "local"),
        ],
    )
    .unwrap();
    assert_eq!(settings.engine.default, "local");
}

#[test]
fn secrets_never_show() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "hunter2hunter2hunter2\n").unwrap();
    let file = format!(
        "[[auth.tokens]]\nname = \"a\"\ntoken_file = \"{0}\"\n\
         [engines.local.env]\nPLAIN = \"hunter2-plain\"\nKEY = {{ file = \"{0}\" }}\n\
         [engines.remote]\nurl = \"http://x\"\npassword = \"hunter2-remote\"\n",
        path.display()
    );
    let settings = load(&file, &[]).unwrap();
    assert_eq!(
        settings.auth.tokens[0].token.expose(),
        "hunter2hunter2hunter2"
    );
    let local = settings.engines.local.as_ref().unwrap();
    assert_eq!(local.env["KEY"].expose(), "hunter2hunter2hunter2");
    assert!(!format!("{settings:?}").contains("hunter2"));
    let wrong = format!("{file}password_file = \"/x\"\n");
    assert!(!load(&wrong, &[]).unwrap_err().contains("hunter2"));
}

#[test]
fn data_lives_where_the_system_says() {
    let home = load("", &[("HOME", "/home/ann")]).unwrap().data;
    assert_eq!(home.dir, PathBuf::from("/home/ann/.local/share/chargehand"));
    let xdg = load("", &[("HOME", "/home/ann"), ("XDG_DATA_HOME", "/data")])
        .unwrap()
        .data;
    assert_eq!(xdg.dir, PathBuf::from("/data/chargehand"));
    assert_eq!(xdg.workdirs, PathBuf::from("/data/chargehand/workdirs"));
}
