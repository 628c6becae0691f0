//! Which environment variables with our prefix are no settings; every other one that is no setting is a mistake.
//!
//! In: the name and value of a variable that no setting has asked for. Out: whether somebody else reads it.

/// What the names of our variables begin with.
pub(super) const PREFIX: &str = "CHARGEHAND_";

/// Read by the command line, set by us for programs that we start, or read by our tests. Without the prefix.
const OTHERS: [&str; 14] = [
    "CONFIG",
    "DATA_DIR",
    "SERVER",
    "TOKEN",
    "TOKEN_FILE",
    "AGENT_ID",
    "OWNER",
    "GIT_USER",
    "GIT_PASSWORD",
    "OPENCODE",
    "REQUIRE_LIVE",
    "DIE_AT",
    "SEED",
    "SEEDS",
];

/// Beginnings of names that belong to our tests.
const TESTS: [&str; 2] = ["TEST_", "OPENCODE_"];

/// `server.bind` -> `CHARGEHAND_SERVER_BIND`.
pub(super) fn variable_name(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Whether the variable (its name without the prefix) is read by somebody else than the settings.
pub(super) fn is_no_setting(name: &str, value: &str) -> bool {
    OTHERS.contains(&name)
        || TESTS.iter().any(|test| name.starts_with(test))
        || of_a_cluster(name, value)
        || (cfg!(feature = "crash-points") && name == "DIE_AT")
}

/// Kubernetes gives every container the addresses of the services around it: one named "chargehand" gets our prefix.
fn of_a_cluster(name: &str, value: &str) -> bool {
    let port = name == "PORT" || name.starts_with("PORT_");
    name == "SERVICE_HOST"
        || name.starts_with("SERVICE_PORT")
        || (port && (value.contains("://") || name.ends_with("_PROTO")))
        || (name.starts_with("PORT_") && (name.ends_with("_ADDR") || name.ends_with("_PORT")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_read_is_left_alone() {
        for (name, value, others) in [
            ("CONFIG", "/etc/x.toml", true),
            ("TEST_NODE", "/usr/bin/node", true),
            ("OPENCODE_OLD", "/x", true),
            ("PORT", "tcp://10.0.0.1:3500", true),
            ("PORT", "3500", false),
            ("PORT_3500_TCP", "tcp://10.0.0.1:3500", true),
            ("PORT_3500_TCP_PROTO", "tcp", true),
            ("PORT_3500_TCP_ADDR", "10.0.0.1", true),
            ("PORT_3500_TCP_PORT", "3500", true),
            ("SERVICE_HOST", "10.0.0.1", true),
            ("SERVICE_PORT_HTTP", "3500", true),
            ("SERVER_BNID", "127.0.0.1:1", false),
            ("TASKS", "5", false),
        ] {
            assert_eq!(is_no_setting(name, value), others, "{name}={value}");
        }
    }
}
