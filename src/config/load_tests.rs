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
        ..Sources::default()
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
        ..Sources::default()
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
            "[engine]\ndefault = \"podman\"",
            vec![],
            vec!["engine.default", "podman", "local"],
        ),
        (
            "[engine]\ndefault = \"docker\"\n[engines.docker]\nenabled = false",
            vec![],
            vec!["engine.default", "docker", "not configured"],
        ),
        (
            "[engines.docker]\nmemory = \"2 apples\"",
            vec![],
            vec!["engines.docker.memory", "2 apples", "512m"],
        ),
        (
            "[engines.docker]\nmemory = \"100m\"",
            vec![],
            vec!["engines.docker.memory", "256m or more"],
        ),
        (
            "[engines.docker]\ncpus = 0",
            vec![],
            vec!["engines.docker.cpus", "from 0.1"],
        ),
        (
            "[engines.docker]\nuser = \"0:0\"",
            vec![],
            vec!["engines.docker.user", "never root"],
        ),
        (
            "[engines.docker]\nnetwork = \"host\"",
            vec![],
            vec!["engines.docker.network", "host", "no sandbox"],
        ),
        (
            "[engines.docker]\nhost = \"localhost\"",
            vec![],
            vec!["engines.docker.host", "unix://"],
        ),
        (
            "[engines.docker]\ntls_ca = \"/ca.pem\"",
            vec![],
            vec![
                "engines.docker.tls_ca",
                "all of tls_ca, tls_cert and tls_key",
            ],
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
            vec![("RUNNER_MEMORY_LIMIT", "much")],
            vec!["engines.docker.memory", "RUNNER_MEMORY_LIMIT", "much"],
        ),
        (
            "",
            vec![("OPENCODE_SERVER_ENABLED", "yes")],
            vec!["OPENCODE_SERVER_ENABLED", "yes", "true or false"],
        ),
        (
            "",
            vec![("MATRIX_ENABLED", "true")],
            if cfg!(feature = "matrix") {
                vec!["matrix.homeserver_url", "matrix.access_token", "missing"]
            } else {
                vec![
                    "MATRIX_ENABLED",
                    "without Matrix rooms",
                    "--features matrix",
                ]
            },
        ),
        (
            "",
            vec![("MAX_TASK_FILE_SIZE", "big")],
            vec!["tasks.max_read_bytes", "MAX_TASK_FILE_SIZE", "big", "1024"],
        ),
        (
            "",
            vec![("CHARGEHAND_SERVER_BNID", "127.0.0.1:1")],
            vec![
                "CHARGEHAND_SERVER_BNID",
                "did you mean CHARGEHAND_SERVER_BIND?",
            ],
        ),
        (
            "",
            vec![("CHARGEHAND_PORT", "4000")],
            vec!["CHARGEHAND_PORT", "no setting", "CHARGEHAND_SECTION_NAME"],
        ),
        (
            "",
            vec![("CHARGEHAND_AUTH_TOKEN", " ")],
            vec!["CHARGEHAND_AUTH_TOKEN", "is empty"],
        ),
        (
            "[engines.local]\nversion = \"latest\"",
            vec![],
            vec!["engines.local.version", "latest", "exact version"],
        ),
        (
            "[engines.local]\nversion = \"1.18.33-/../x\"",
            vec![],
            vec!["engines.local.version", "exact version"],
        ),
        (
            "[engines.local]\nversion = \"1.2.9\"",
            vec![],
            vec!["engines.local.version", "1.3.0 or newer"],
        ),
        (
            "[log]\nlevel = \"info,chargehand=loud=er\"",
            vec![],
            vec!["log.level", "no log filter", "debug"],
        ),
        (
            "[engines.remote]\nurl = \"http://x/\"\npath_map = { \"/a\" = \"/b\", \"/c\" = \"/d\" }",
            vec![],
            vec!["engines.remote.path_map", "more than one pair"],
        ),
        (
            "[matrix]\nhomeserver_url = \"https://:hunter2@x\"",
            vec![],
            vec!["matrix.homeserver_url", "without credentials"],
        ),
        (
            "[auth]\ntoken = \"0123456789 abcdef\"",
            vec![],
            vec!["token \"default\"", "contains a space"],
        ),
        (
            "[tasks]\nmax_running = 3\nnot toml at all",
            vec![],
            vec!["no TOML", "line 3"],
        ),
    ] {
        let error = load(file, &env).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{file} {env:?}: {error} lacks {part}");
        }
    }
}

#[test]
fn an_address_with_a_password_is_not_repeated() {
    for (file, setting) in [
        (
            "[engines.remote]\nurl = \"bob:hunter2@x y\"",
            "engines.remote.url",
        ),
        (
            "[matrix]\nhomeserver_url = \"http://bob:hunter2@x y\"",
            "matrix.homeserver_url",
        ),
        (
            "[matrix]\nhomeserver_url = \"http://bob:hunter2@x\"",
            "matrix.homeserver_url",
        ),
    ] {
        let error = load(file, &[]).unwrap_err();
        assert!(
            error.contains(setting) && !error.contains("hunter2"),
            "{error}"
        );
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

#[test]
fn text_from_outside_may_be_toml() {
    let settings = load(
        "",
        &[
            ("CHARGEHAND_TASKS_ALLOWED_SOURCES", "[\"/a,b\", \"/c\"]"),
            ("CHARGEHAND_SERVER_ALLOWED_HOSTS", "a.example, b.example"),
            ("CHARGEHAND_ENGINES_LOCAL_ENV", "{ KEY = \"v\" }"),
            (
                "CHARGEHAND_ENGINES_LOCAL_OPENCODE_CONFIG",
                "share = \"disabled\"",
            ),
            (
                "CHARGEHAND_AUTH_TOKENS",
                "[{ name = \"a\", token = \"0123456789abcdef\" }]",
            ),
        ],
    )
    .unwrap();
    let allowed = settings.tasks.allowed_sources.unwrap();
    assert_eq!(allowed, [PathBuf::from("/a,b"), PathBuf::from("/c")]);
    assert_eq!(settings.server.allowed_hosts, ["a.example", "b.example"]);
    let local = settings.engines.local.unwrap();
    assert_eq!(local.env["KEY"].expose(), "v");
    assert_eq!(local.opencode_config["share"], "disabled");
    assert_eq!(settings.auth.tokens[0].role, TokenRole::Caller);
    let none = load("", &[("CHARGEHAND_TASKS_ALLOWED_SOURCES", "[]")]).unwrap();
    assert_eq!(none.tasks.allowed_sources, Some(Vec::new()));
}

#[test]
fn the_originals_directories_and_sizes_are_honoured() {
    let settings = load(
        "",
        &[
            ("WORKSPACE_DIR", "/opt/stacks"),
            ("MAX_TASK_FILE_SIZE", "5000"),
        ],
    )
    .unwrap();
    assert_eq!(settings.data.workdirs, PathBuf::from("/opt/stacks"));
    assert_eq!(settings.tasks.max_read_bytes, 5_000);
    let larger = load("", &[("MAX_TASK_FILE_SIZE", "5000000")]).unwrap();
    assert_eq!(larger.tasks.max_read_bytes, 1_000_000);
}

#[test]
fn a_server_that_is_only_named_is_an_engine_but_not_the_default() {
    let settings = load("", &[("OPENCODE_SERVER_URL", "http://opencode:3100")]).unwrap();
    assert_eq!(settings.engine.default, "local");
    assert!(settings.engines.remote.is_some());
}

#[test]
fn what_asks_for_containers_gets_them_and_no_way_around_them() {
    let load = |env: &[(&str, &str)]| load("", env).unwrap();
    for asks in [
        vec![("OPENCODE_SERVER_ENABLED", "false")],
        vec![("RUNNER_IMAGE", "own-image")],
        vec![("RUNNER_CPU_LIMIT", "0.5")],
        vec![("CHARGEHAND_ENGINE_DEFAULT", "docker")],
    ] {
        let settings = load(&asks);
        assert_eq!(settings.engine.default, "docker", "{asks:?}");
        assert_eq!(settings.engine_names(), ["docker"], "{asks:?}");
    }
    let limits = [
        ("RUNNER_IMAGE", "own-image"),
        ("RUNNER_CPU_LIMIT", "0.5"),
        ("RUNNER_MEMORY_LIMIT", "512m"),
    ];
    let docker = load(&limits).engines.docker.unwrap();
    assert_eq!(
        (docker.image.as_str(), docker.cpus, docker.memory),
        ("own-image", 0.5, 512 << 20)
    );
    // Whoever wants both says so.
    let both = load(&[
        ("RUNNER_IMAGE", "own-image"),
        ("CHARGEHAND_ENGINES_LOCAL_ENABLED", "true"),
    ]);
    assert_eq!(both.engine_names(), ["local", "docker"]);
    assert_eq!(load(&[]).engine_names(), ["local"]);
}

#[cfg(feature = "matrix")]
#[test]
fn rooms_are_as_the_original_or_our_settings_say() {
    let original = [
        ("MATRIX_ENABLED", "true"),
        ("MATRIX_HOMESERVER_URL", "https://matrix.example.org"),
        ("MATRIX_ACCESS_TOKEN", "secret"),
        ("MATRIX_USER_ID", "@bot:example.org"),
        (
            "MATRIX_DEFAULT_HUMAN_OBSERVERS",
            "@anna:example.org, @bob:example.org",
        ),
    ];
    let settings = load("", &original).unwrap();
    let tree = settings.tree(chargehand_actors::id::InstanceId("i".to_owned()));
    let matrix = settings.matrix.unwrap();
    assert_eq!(matrix.homeserver, "https://matrix.example.org/");
    assert_eq!(matrix.access_token.unwrap().expose(), "secret");
    assert_eq!(
        tree.rooms.observers,
        ["@anna:example.org", "@bob:example.org"]
    );
    let file = "[matrix]\nenabled = true\nhomeserver_url = \"http://127.0.0.1:8008\"\n";
    for (more, words) in [
        ("", "matrix.access_token is missing"),
        ("password = \"x\"", "matrix.user_id is missing"),
        (
            "access_token = \"x\"\nencrypt_rooms = true",
            "cannot sign its own device",
        ),
        ("access_token = \"x\"\noperators = [\"anna\"]", "Matrix ids"),
        (
            "access_token = \"x\"\n[matrix.owners]\nlocal = \"anna\"",
            "is no Matrix id",
        ),
    ] {
        let error = load(&format!("{file}{more}"), &[]).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
