#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_value_with_quotes_and_lines_is_read_back_exactly() {
    let value = "it's {\"a\": \"b\"}\n$HOME `x`";
    let variables = BTreeMap::from([("X".to_owned(), value.to_owned())]);
    let read = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("{}printf %s \"$X\"", shell(&variables)))
        .output();
    assert_eq!(
        read.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .ok(),
        Some(value.to_owned())
    );
}

#[test]
fn a_directory_that_others_prepared_or_can_use_is_refused_with_what_to_do() {
    let around = tempfile::tempdir().unwrap();
    let place = around.path().join("secrets");
    std::os::unix::fs::symlink(around.path(), &place).unwrap();
    let refused = |word: &str| {
        let error = check(&place).unwrap_err().to_string();
        for word in [word, "engines.docker.secrets_dir"] {
            assert!(error.contains(word), "{error}");
        }
    };
    refused("not a directory");
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    let mode = |mode| std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o750);
    refused("mode 750");
    mode(0o700);
    check(&place).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(&place, Some(10_001), None).unwrap();
        refused("user 10001");
    }
}

#[test]
fn secrets_are_hidden_as_they_are_quoted_escaped_and_cut_into_lines() {
    let secret = "it's \"a long\"\nsecret text".to_owned();
    let file = shell(&BTreeMap::from([("X".to_owned(), secret.clone())]));
    let json = Value::String(secret.clone()).to_string();
    let told = format!("KEEP 1 {secret} {file} {json} secret text");
    let hidden = hide(&told, vec!["1".to_owned(), secret]);
    assert_eq!(
        hidden,
        "KEEP 1 [secret] X='[secret]'\n \"[secret]\" [secret]"
    );
}

#[test]
fn the_keys_of_providers_in_a_configuration_are_secret() {
    let mut found = Vec::new();
    let config = json!({"provider": {"x": {"options": {"apiKey": "k1", "baseURL": "u"}}}, "y": [{"apikey": "k2"}]});
    keys_in(&config, &mut found);
    assert_eq!(found, ["k1", "k2"]);
}

#[test]
fn the_registry_that_opencode_is_kept_from_is_none_for_commands_and_an_own_one_stays() {
    for (given, expected) in [(NO_REGISTRY, "none"), ("http://own", "http://own")] {
        let read = std::process::Command::new("bash")
            .arg("-c")
            .arg(format!(
                "{}echo ${{{NPM_REGISTRY}:-none}}",
                first().replace(EXPENDABLE, "")
            ))
            .env(NPM_REGISTRY, given)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&read.stdout).trim(),
            expected,
            "{read:?}"
        );
    }
}
