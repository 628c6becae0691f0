#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::{Checked, Origin, Weight};
use crate::config::{REDACTED, SECRETS, Settings, Sources};

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn check(file: &str, env: &[(&str, &str)]) -> Checked {
    Settings::check(Sources {
        file: file.to_owned(),
        env: pairs(env),
        ..Sources::default()
    })
}

#[test]
fn every_value_says_where_it_came_from() {
    let checked = Settings::check(Sources {
        file: "[tasks]\nmax_queued = 7\n[log]\nlevel = \"warn\"".to_owned(),
        env: pairs(&[
            ("CHARGEHAND_LOG_FORMAT", "json"),
            ("MAX_CONCURRENT_TASKS", "9"),
        ]),
        flags: pairs(&[("log.level", "debug")]),
        ..Sources::default()
    });
    assert!(checked.settings.is_ok());
    let variable = |name: &str| Origin::Variable(name.to_owned());
    for (path, origin) in [
        ("tasks.max_queued", Origin::File),
        ("log.level", Origin::Flag),
        ("log.format", variable("CHARGEHAND_LOG_FORMAT")),
        ("tasks.max_running", variable("MAX_CONCURRENT_TASKS")),
        ("server.bind", Origin::Default),
    ] {
        assert_eq!(checked.origins[path], origin, "{path}");
    }
}

#[test]
fn every_setting_with_a_value_is_shown_and_no_secret_is() {
    let matrix = if cfg!(feature = "matrix") {
        "[matrix]\nenabled = true\nhomeserver_url = \"http://x\"\nuser_id = \"@a:b\"\naccess_token = \"hunter2\"\n"
    } else {
        ""
    };
    let file = format!(
        "{}\n{matrix}[[auth.tokens]]\nname = \"a\"\ntoken = \"hunter2hunter2hunter2\"\nagents = [\"x\"]\n\
         [engines.local]\nmodel = \"a/b\"\nsmall_model = \"a/b\"\nopencode = \"/bin/opencode\"\n\
         env = {{ KEY = \"hunter2\" }}\nopencode_config = {{ provider = {{ apiKey = \"hunter2\" }} }}\n\
         [engines.remote]\nurl = \"http://x\"\npassword = \"hunter2\"\ndirectory = \"/x\"\n\
         [engines.docker]\nenabled = true\nhost = \"tcp://x:2376\"\ntls_ca = \"/a\"\ntls_cert = \"/b\"\ntls_key = \"/c\"\n\
         user = \"1:2\"\nruntime = \"runsc\"\nsecrets_dir = \"/s\"\nmodel = \"a/b\"\nsmall_model = \"a/b\"\n\
         env = {{ KEY = \"hunter2\" }}\nopencode_config = {{ provider = {{ apiKey = \"hunter2\" }} }}\n",
        "[letta]\nurl = \"http://x\"\ntoken = \"hunter2\"\n[tasks]\nallowed_sources = [\"/a\"]"
    );
    let checked = check(&file, &[]);
    let shown = checked.settings.unwrap().shown();
    for path in checked.origins.keys() {
        assert!(
            // A password excludes the token.
            shown.contains_key(path) || SECRETS.contains(path) || *path == "matrix.password",
            "{path} is not shown"
        );
    }
    for path in shown.keys() {
        assert!(checked.origins.contains_key(path), "{path} is no setting");
    }
    let text = format!("{shown:?}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(shown["engines.remote.password"].as_str(), Some(REDACTED));
}

#[test]
fn what_is_shown_is_what_is_set() {
    // Everything but secrets can be given back as it is shown.
    let settings = check(
        "[permissions]\ndeny = [\"bash:rm *\", \"webfetch\"]\n[retention]\ntasks_days = 3\nfiles_days = 2\n\
         [engines.remote]\nurl = \"http://x/\"\npath_map = { \"/a\" = \"/b\" }\n[log]\nformat = \"json\"\n\
         [tasks]\nallowed_sources = [\"/a\"]\nidempotency_hours = 5\nmax_running = 9",
        &[],
    )
    .settings
    .unwrap();
    let lines: Vec<String> = settings
        .shown()
        .iter()
        .map(|(path, value)| format!("{path} = {value}"))
        .collect();
    let again = check(&lines.join("\n"), &[]).settings.unwrap();
    assert_eq!(again, settings);
}

#[test]
fn what_has_no_meaning_here_is_told() {
    let checked = check(
        "",
        &[
            ("LETTA_API_URL", "https://letta"),
            ("WORKSPACE_MAX_EVENTS", "50"),
            ("MATRIX_ENABLED", "false"),
            ("MATRIX_STORAGE_PATH", "/x"),
            ("ENABLE_ASYNC_EXECUTE", "true"),
            ("DEBUG", "*"),
            ("OPENCODE_SERVER_ENABLED", "true"),
            ("OPENCODE_SERVER_URL", "http://opencode:3100"),
            ("RUNNER_IMAGE", "x"),
            ("MAX_CONCURRENT_TASKS", "4"),
            ("CHARGEHAND_TASKS_MAX_RUNNING", "5"),
            ("MAX_TASK_FILE_SIZE", "2000000"),
            ("UNRELATED", "x"),
        ],
    );
    let settings = checked.settings.unwrap();
    let letta = settings.letta.unwrap();
    assert_eq!(letta.url.as_str(), "https://letta/");
    assert_eq!(letta.max_events, 50);
    assert_eq!(settings.tasks.max_running, 5);
    let told: Vec<(&str, Weight)> = checked
        .notes
        .iter()
        .map(|note| (note.about.as_str(), note.weight))
        .collect();
    for wanted in [
        ("MATRIX_STORAGE_PATH", Weight::Remark),
        ("ENABLE_ASYNC_EXECUTE", Weight::Remark),
        ("DEBUG", Weight::Remark),
        ("RUNNER_IMAGE", Weight::Warning),
        ("MAX_CONCURRENT_TASKS", Weight::Remark),
        ("MAX_TASK_FILE_SIZE", Weight::Remark),
    ] {
        assert!(told.contains(&wanted), "{wanted:?} is not in {told:?}");
    }
    assert_eq!(told.len(), 6, "{told:?}");
    assert_eq!(check("", &[]).notes, []);
}

#[test]
fn a_secret_that_everybody_can_read_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("token");
    std::fs::write(&secret, "0123456789abcdef\n").unwrap();
    let rights = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let file = format!(
        "[auth]\ntoken_file = \"{0}\"\n[engines.local.env]\nKEY = {{ file = \"{0}\" }}\nPASSWORD = \"x\"",
        secret.display()
    );
    let own = dir.path().join("chargehand.toml");
    std::fs::write(&own, &file).unwrap();
    let about = || {
        let checked = Settings::check(Sources {
            file: file.clone(),
            path: Some(own.clone()),
            ..Sources::default()
        });
        let settings = checked.settings.unwrap();
        assert_eq!(settings.auth.tokens[0].token.expose(), "0123456789abcdef");
        let notes = checked.notes.into_iter();
        notes.map(|note| note.about).collect::<Vec<_>>()
    };
    rights(&secret, 0o644);
    rights(&own, 0o644);
    assert_eq!(
        about(),
        [secret.display().to_string(), own.display().to_string()]
    );
    rights(&secret, 0o640);
    rights(&own, 0o600);
    assert_eq!(about(), Vec::<String>::new());
}

#[test]
fn a_secret_file_that_cannot_hold_a_secret_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, long) = (dir.path().join("empty"), dir.path().join("long"));
    std::fs::write(&empty, "\n").unwrap();
    std::fs::write(&long, "x".repeat(70_000)).unwrap();
    let missing = dir.path().join("missing");
    for (path, words) in [
        (&empty, "is empty"),
        (&long, "longer than 64 KiB"),
        (&missing, "No such file"),
        (&dir.path().to_owned(), "directory"),
    ] {
        let name = path.to_str().unwrap();
        let checked = check("", &[("CHARGEHAND_AUTH_TOKEN_FILE", name)]);
        let error = checked.settings.unwrap_err().to_string();
        assert!(
            error.contains(words)
                && error.contains(name)
                && error.contains("CHARGEHAND_AUTH_TOKEN_FILE"),
            "{error}"
        );
    }
    let home = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("key"), "0123456789abcdef").unwrap();
    let at_home = check("[auth]\ntoken_file = \"~/key\"", &[("HOME", home)]);
    assert!(at_home.settings.is_ok(), "{:?}", at_home.settings);
}

#[test]
fn a_secret_among_the_arguments_is_told() {
    let checked = Settings::check(Sources {
        flags: pairs(&[("auth.token", "0123456789abcdef")]),
        ..Sources::default()
    });
    assert_eq!(checked.notes[0].about, "auth.token");
    assert_eq!(checked.notes[0].weight, Weight::Warning);
}
