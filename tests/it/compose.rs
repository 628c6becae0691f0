//! compose.yaml passes every setting on, and names none that does not exist.

use std::collections::BTreeSet;

const COMPOSE: &str = include_str!("../../compose.yaml");
const SETTINGS: &str = include_str!("../../config/chargehand.toml");

/// Settings that compose.yaml leaves out: the token has a file of its own, workdirs lie in the data directory, the engine is chosen, and
/// its daemon is reached by the mounted socket.
const LEFT_OUT: [&str; 7] = [
    "CHARGEHAND_AUTH_TOKEN",
    "CHARGEHAND_DATA_WORKDIRS",
    "CHARGEHAND_ENGINES_DOCKER_ENABLED",
    "CHARGEHAND_ENGINES_DOCKER_TLS_CA",
    "CHARGEHAND_ENGINES_DOCKER_TLS_CERT",
    "CHARGEHAND_ENGINES_DOCKER_TLS_KEY",
    // The setting data.dir has the same variable as the flag.
    "CHARGEHAND_DATA_DIR",
];

/// Read by the command line, for the healthcheck.
const OF_THE_CLIENT: [&str; 3] = [
    "CHARGEHAND_SERVER",
    "CHARGEHAND_TOKEN_FILE",
    "CHARGEHAND_DATA_DIR",
];

/// The variable of every setting that config/chargehand.toml explains.
fn settings() -> BTreeSet<String> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in SETTINGS.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
            continue;
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((name, _)) = line.split_once(" =") else {
            continue;
        };
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if is_name && !section.is_empty() {
            let path = format!("{section}.{name}").replace('.', "_");
            found.insert(format!("CHARGEHAND_{}", path.to_ascii_uppercase()));
        }
    }
    found
}

/// The variables that the server's container gets.
fn passed() -> BTreeSet<String> {
    let server = COMPOSE.split("\n  prepare:\n").next().unwrap_or_default();
    server
        .lines()
        .filter_map(|line| line.strip_prefix("      "))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("CHARGEHAND_"))
        .collect()
}

#[test]
fn every_setting_can_be_given_in_the_environment() {
    let (settings, passed) = (settings(), passed());
    assert!(
        settings.len() > 80 && passed.len() > 70,
        "{settings:?} {passed:?}"
    );
    let missing: Vec<&String> = settings
        .iter()
        .filter(|name| !passed.contains(*name) && !LEFT_OUT.contains(&name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "compose.yaml does not pass on {missing:?}"
    );
    let unknown: Vec<&String> = passed
        .iter()
        .filter(|name| !settings.contains(*name) && !OF_THE_CLIENT.contains(&name.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "compose.yaml passes on what is no setting: {unknown:?}"
    );
}
