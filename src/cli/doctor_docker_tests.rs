//! The judgement: a daemon as it should be, and each thing that can be wrong with one.

use chargehand_actors::id::EngineName;

use super::*;
use crate::adapters::docker::{DockerLimits, Endpoint};
use crate::adapters::opencode::OpencodeSettings;

fn settings() -> DockerSettings {
    DockerSettings {
        name: EngineName::new("docker"),
        instance: InstanceId("doctor".to_owned()),
        endpoint: Endpoint::Environment,
        image: "worker".to_owned(),
        network: Network::Bridge,
        runtime: None,
        user: (10_001, 10_001),
        limits: DockerLimits::default(),
        data_dir: "/data".into(),
        secrets_dir: "/dev/shm/x".into(),
        opencode: OpencodeSettings::default(),
        setup: Vec::new(),
    }
}

fn trial() -> Trial {
    [
        ("CapEff", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("root", "read-only"),
        ("memory", "2147483648"),
        ("memory_and_swap", "2147483648"),
        ("pids", "512"),
        ("cpu", "200000"),
        ("opencode", "1.18.33"),
        ("git", "git version 2.39.5"),
        ("bash", "GNU bash"),
        ("rg", "ripgrep 13"),
        ("nonce", "abc"),
        ("workdir", "writable"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

fn sound() -> Survey {
    Survey {
        version: "Docker 28.0.0, API 1.48".to_owned(),
        api: (1, 48),
        storage: "overlay2 on extfs".to_owned(),
        live_restore: true,
        runtimes: vec!["runc".to_owned()],
        cgroups: "cgroups v1 by cgroupfs".to_owned(),
        image: true,
        trial: Some(Ok(trial())),
        nonce: Some("abc".to_owned()),
        ..Survey::default()
    }
}

/// What is not well: name, whether it fails, what was found.
fn bad(found: &Survey, settings: &DockerSettings) -> Vec<(&'static str, State, String)> {
    judge(found, settings)
        .into_iter()
        .filter(|check| check.state != State::Ok)
        .map(|check| {
            assert!(
                !check.mend.is_empty(),
                "{} does not say how to mend it",
                check.name
            );
            (check.name, check.state, check.found)
        })
        .collect()
}

#[test]
fn a_daemon_as_it_should_be_has_no_finding() {
    assert_eq!(bad(&sound(), &settings()), []);
    let mut second = trial();
    second.remove("memory_and_swap");
    second.extend([
        ("swap".to_owned(), "0".to_owned()),
        ("cpu".to_owned(), "200000 100000".to_owned()),
    ]);
    let second = Survey {
        cgroups: "cgroups v2 by systemd".to_owned(),
        trial: Some(Ok(second)),
        ..sound()
    };
    assert_eq!(bad(&second, &settings()), []);
}

#[test]
fn what_the_trial_shows_is_believed_and_not_what_the_daemon_says() {
    use State::{Fail, Warn};
    for (name, value, check, state, words) in [
        (
            "memory",
            "9223372036854771712",
            "docker limits",
            Warn,
            "memory",
        ),
        (
            "memory_and_swap",
            "9223372036854771712",
            "docker limits",
            Warn,
            "swap",
        ),
        ("pids", "max", "docker limits", Warn, "pids"),
        ("cpu", "-1", "docker limits", Warn, "CPU"),
        ("cpu", "", "docker limits", Warn, "CPU"),
        ("cpu", "max 100000", "docker limits", Warn, "CPU"),
        (
            "CapEff",
            "00000000a80425fb",
            "docker sandbox",
            Warn,
            "capabilities",
        ),
        ("NoNewPrivs", "0", "docker sandbox", Warn, "privileges"),
        ("Seccomp", "0", "docker sandbox", Warn, "seccomp"),
        ("root", "writable", "docker sandbox", Warn, "root"),
        ("opencode", "", "docker image", Fail, "has no opencode"),
        ("git", "", "docker image", Fail, "has no git"),
        ("opencode", "1.2.9", "docker image", Fail, "1.2.9"),
        (
            "opencode",
            "Illegal instruction",
            "docker image",
            Fail,
            "does not run",
        ),
        ("rg", "", "docker image", Warn, "ripgrep"),
        ("bash", "", "docker image", Warn, "bash"),
        (
            "nonce",
            "other",
            "docker workdirs",
            Fail,
            "another directory",
        ),
        ("workdir", "", "docker workdirs", Fail, "cannot write"),
    ] {
        let mut trial = trial();
        trial.insert(name.to_owned(), value.to_owned());
        let found = Survey {
            trial: Some(Ok(trial)),
            ..sound()
        };
        let bad = bad(&found, &settings());
        assert!(
            matches!(bad.as_slice(), [(c, s, f)] if *c == check && *s == state && f.contains(words)),
            "{name}={value}: {bad:?}"
        );
    }
}

#[test]
fn what_the_daemon_is_and_has() {
    use State::{Fail, Warn};
    let named = DockerSettings {
        network: Network::Named("workers".to_owned()),
        ..settings()
    };
    let unlimited = DockerSettings {
        limits: DockerLimits {
            disk: 0,
            ..DockerLimits::default()
        },
        ..settings()
    };
    let runsc = DockerSettings {
        runtime: Some("runsc".to_owned()),
        ..settings()
    };
    let failed = |error: &str| Survey {
        trial: Some(Err(error.to_owned())),
        ..sound()
    };
    for (found, settings, check, state, words) in [
        (
            Survey {
                api: (1, 40),
                ..sound()
            },
            &settings(),
            "docker",
            Warn,
            "28.0.0",
        ),
        (
            Survey {
                elsewhere: true,
                ..sound()
            },
            &settings(),
            "docker",
            Warn,
            "another machine",
        ),
        (
            Survey {
                image: false,
                trial: None,
                ..sound()
            },
            &settings(),
            "docker image",
            Fail,
            "is not there",
        ),
        (
            failed("unknown or invalid runtime name: runsc"),
            &runsc,
            "docker image",
            Fail,
            "does not run",
        ),
        (
            Survey {
                network: Some(false),
                ..sound()
            },
            &named,
            "docker network",
            Fail,
            "workers",
        ),
        (
            Survey {
                storage: "vfs".to_owned(),
                ..sound()
            },
            &settings(),
            "docker storage",
            Warn,
            "vfs",
        ),
        (sound(), &unlimited, "docker storage", Warn, "not limited"),
        (
            Survey {
                live_restore: false,
                ..sound()
            },
            &settings(),
            "docker restarts",
            Warn,
            "live-restore",
        ),
        (
            Survey {
                podman: true,
                live_restore: false,
                ..sound()
            },
            &settings(),
            "podman",
            Warn,
            "memory",
        ),
    ] {
        let bad = bad(&found, settings);
        assert!(
            matches!(bad.as_slice(), [(c, s, f)] if *c == check && *s == state && f.contains(words)),
            "{check}: {bad:?}"
        );
    }
}

#[test]
fn how_to_mend_it_depends_on_why() {
    for (error, words) in [
        (
            "unknown or invalid runtime name: runsc",
            "this daemon has runc",
        ),
        (
            "invalid mount config: bind source path does not exist: /data",
            "does not see Chargehand's workdirs",
        ),
        (
            "exec: \"catatonit\": executable file not found",
            "catatonit for Podman",
        ),
        (
            "cgroups: cannot find cgroup mount destination",
            "controllers",
        ),
        ("something else", "mend what the daemon names"),
    ] {
        let settings = DockerSettings {
            runtime: Some("runsc".to_owned()),
            ..settings()
        };
        let check = cannot_run(&sound(), &settings, error);
        assert!(check.mend.contains(words), "{error}: {}", check.mend);
    }
    assert!(
        unreachable("Permission denied (os error 13)")
            .mend
            .contains("group")
    );
    assert!(
        unreachable("No such file or directory")
            .mend
            .contains("start Docker")
    );
}

#[test]
fn secrets_belong_into_memory() {
    let mounts =
        "/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n/dev/vdb /dev/shm/disk ext4 rw 0 0\n";
    for (place, state) in [
        ("/dev/shm/chargehand", State::Ok),
        ("/dev/shm/disk/chargehand", State::Warn),
        ("/var/lib/chargehand", State::Warn),
    ] {
        assert_eq!(secrets(Path::new(place), mounts).state, state, "{place}");
    }
}
