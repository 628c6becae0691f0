//! `[engines.docker]`: one hardened container per task; and `[worker]`, what is run in it first.
//!
//! In: the reader. Out: [`DockerEngineSettings`], and what is shown of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use super::Secret;
use super::load::{model, opencode_config, worker_env};
use super::reader::Reader;
use super::shown::REDACTED;

/// `[engines.docker]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DockerEngineSettings {
    /// Where the daemon listens; none = `DOCKER_HOST`, else the usual sockets.
    pub host: Option<String>,
    /// Files of mutual TLS: CA, certificate, key.
    pub tls: Option<[PathBuf; 3]>,
    /// The image of the workers.
    pub image: String,
    /// `bridge`, `internal`, or the name of a network.
    pub network: String,
    /// Bytes of memory of a worker.
    pub memory: u64,
    /// CPUs of a worker.
    pub cpus: f64,
    /// Processes and threads of a worker.
    pub pids: u32,
    /// Bytes of disk of a worker; 0 = not watched.
    pub disk: u64,
    /// Bytes of `/tmp` and of HOME, each.
    pub tmpfs: u64,
    /// User and group of a worker; none = Chargehand's own, 10001 when that is root.
    pub user: Option<(u32, u32)>,
    /// The container runtime; none = the daemon's default.
    pub runtime: Option<String>,
    /// Where secrets of running workers are; none = a directory on tmpfs.
    pub secrets_dir: Option<PathBuf>,
    /// Default model, provider/model.
    pub model: Option<String>,
    /// Model for titles and summaries, provider/model.
    pub small_model: Option<String>,
    /// OpenCode's own configuration, passed through as it is.
    pub opencode_config: serde_json::Map<String, serde_json::Value>,
    /// Environment variables of the worker; nothing else is inherited.
    pub env: BTreeMap<String, Secret>,
}

impl Default for DockerEngineSettings {
    fn default() -> Self {
        Self {
            host: None,
            tls: None,
            image: "chargehand-worker".to_owned(),
            network: "bridge".to_owned(),
            memory: 2 << 30,
            cpus: 2.0,
            pids: 512,
            disk: 10 << 30,
            tmpfs: 256 << 20,
            user: None,
            runtime: None,
            secrets_dir: None,
            model: None,
            small_model: None,
            opencode_config: serde_json::Map::new(),
            env: BTreeMap::new(),
        }
    }
}

/// Reads the section; on when it says so, or when tasks that name no engine run in it.
pub(super) fn docker(reader: &mut Reader, is_default: bool) -> Option<DockerEngineSettings> {
    let defaults = DockerEngineSettings::default();
    let enabled = reader.flag("engines.docker.enabled", is_default);
    let settings = DockerEngineSettings {
        host: host(reader),
        tls: tls(reader),
        image: reader
            .text("engines.docker.image")
            .unwrap_or(defaults.image),
        network: network(reader).unwrap_or(defaults.network),
        memory: size(reader, "engines.docker.memory", 256 << 20, defaults.memory),
        cpus: reader.decimal("engines.docker.cpus", 0.1..=1024.0, defaults.cpus),
        pids: u32::try_from(reader.number(
            "engines.docker.pids",
            32..=1_000_000,
            defaults.pids.into(),
        ))
        .unwrap_or(u32::MAX),
        disk: size(reader, "engines.docker.disk", 0, defaults.disk),
        tmpfs: size(reader, "engines.docker.tmpfs", 16 << 20, defaults.tmpfs),
        user: user(reader),
        runtime: reader.text("engines.docker.runtime"),
        secrets_dir: reader.path("engines.docker.secrets_dir"),
        model: model(reader, "engines.docker.model"),
        small_model: model(reader, "engines.docker.small_model"),
        opencode_config: opencode_config(reader, "engines.docker.opencode_config"),
        env: worker_env(reader, "engines.docker.env"),
    };
    enabled.then_some(settings)
}

/// `[worker]`: commands before the first prompt, by where the workdir comes from.
pub(super) fn setup(reader: &mut Reader) -> Vec<(String, Vec<String>)> {
    const PATH: &str = "worker.setup";
    let mut rules = Vec::new();
    for (source, commands) in reader.table(PATH) {
        let texts = |items: &Vec<Value>| -> Option<Vec<String>> {
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        match commands.as_array().and_then(texts) {
            Some(commands) => rules.push((source, commands)),
            None => reader.problem(
                format!("{PATH}.\"{source}\""),
                "is no list of commands",
                "a list of texts, such as [\"npm ci\"]",
            ),
        }
    }
    rules
}

fn host(reader: &mut Reader) -> Option<String> {
    const PATH: &str = "engines.docker.host";
    let host = reader.text(PATH)?;
    if !["unix://", "tcp://", "http://"]
        .iter()
        .any(|scheme| host.starts_with(scheme))
    {
        reader.problem(
            PATH,
            format!("is \"{host}\""),
            "unix:///path/of/the.sock or tcp://host:port",
        );
    }
    Some(host)
}

fn tls(reader: &mut Reader) -> Option<[PathBuf; 3]> {
    let files = [
        reader.path("engines.docker.tls_ca"),
        reader.path("engines.docker.tls_cert"),
        reader.path("engines.docker.tls_key"),
    ];
    match files {
        [Some(ca), Some(cert), Some(key)] => Some([ca, cert, key]),
        [None, None, None] => None,
        _ => {
            reader.problem(
                "engines.docker.tls_ca",
                "is given without its companions, or they without it",
                "all of tls_ca, tls_cert and tls_key, or none",
            );
            None
        }
    }
}

fn network(reader: &mut Reader) -> Option<String> {
    const PATH: &str = "engines.docker.network";
    let network = reader.text(PATH)?;
    if ["host", "none", "default"].contains(&network.as_str()) || network.contains(':') {
        reader.problem(
            PATH,
            format!("is \"{network}\""),
            "bridge, internal, or the name of a network of the daemon; a worker in the host's or another container's network \
             would be in no sandbox, one in none could not be spoken to",
        );
    }
    Some(network)
}

fn user(reader: &mut Reader) -> Option<(u32, u32)> {
    const PATH: &str = "engines.docker.user";
    let text = reader.text(PATH)?;
    let ids = text
        .split_once(':')
        .and_then(|(uid, gid)| Some((uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?)))
        .filter(|(uid, _)| *uid != 0);
    if ids.is_none() {
        reader.problem(
            PATH,
            format!("is \"{text}\""),
            "uid:gid as numbers, such as 10001:10001; never root",
        );
    }
    ids
}

/// Bytes, written as a number with k, m or g behind it.
struct Bytes(u64);

impl std::str::FromStr for Bytes {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        bytes(text).map(Self).ok_or(())
    }
}

/// A size in bytes, not below `least`.
pub(super) fn size(reader: &mut Reader, path: &'static str, least: u64, default: u64) -> u64 {
    let allowed = format!(
        "a size such as 512m or 2g, as text, {} or more",
        written(least)
    );
    match reader.parsed::<Bytes>(path, &allowed) {
        Some(Bytes(bytes)) if bytes >= least => bytes,
        Some(Bytes(bytes)) => {
            reader.problem(path, format!("is {}", written(bytes)), allowed);
            default
        }
        None => default,
    }
}

fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, shift) = match text.chars().last()? {
        'k' => (text.trim_end_matches('k'), 10),
        'm' => (text.trim_end_matches('m'), 20),
        'g' => (text.trim_end_matches('g'), 30),
        _ => (text, 0),
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << shift)
}

/// The shortest text that [`bytes`] reads back.
pub(super) fn written(bytes: u64) -> String {
    for (shift, unit) in [(30, "g"), (20, "m"), (10, "k")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// What is shown of the section.
pub(super) fn show(values: &mut BTreeMap<&'static str, Value>, settings: &DockerEngineSettings) {
    let DockerEngineSettings {
        host,
        tls,
        image,
        network,
        memory,
        cpus,
        pids,
        disk,
        tmpfs,
        user,
        runtime,
        secrets_dir,
        model,
        small_model,
        opencode_config,
        env,
    } = settings;
    let text = |text: &dyn std::fmt::Display| Value::String(text.to_string());
    let redacted = |names: &mut dyn Iterator<Item = &String>| -> Value {
        let entry = |name: &String| (name.clone(), Value::String(REDACTED.to_owned()));
        Value::Table(names.map(entry).collect::<Table>())
    };
    values.extend([
        ("engines.docker.image", text(image)),
        ("engines.docker.network", text(network)),
        ("engines.docker.memory", text(&written(*memory))),
        ("engines.docker.cpus", Value::Float(*cpus)),
        ("engines.docker.pids", Value::Integer(i64::from(*pids))),
        ("engines.docker.disk", text(&written(*disk))),
        ("engines.docker.tmpfs", text(&written(*tmpfs))),
        // Providers' keys may stand anywhere in OpenCode's configuration and in the worker's variables.
        (
            "engines.docker.opencode_config",
            redacted(&mut opencode_config.keys()),
        ),
        ("engines.docker.env", redacted(&mut env.keys())),
    ]);
    let [ca, cert, key] = match tls {
        Some(files) => files
            .each_ref()
            .map(|file| Some(file.display().to_string())),
        None => [None, None, None],
    };
    for (name, value) in [
        ("engines.docker.host", host.clone()),
        ("engines.docker.tls_ca", ca),
        ("engines.docker.tls_cert", cert),
        ("engines.docker.tls_key", key),
        (
            "engines.docker.user",
            user.map(|(uid, gid)| format!("{uid}:{gid}")),
        ),
        ("engines.docker.runtime", runtime.clone()),
        (
            "engines.docker.secrets_dir",
            secrets_dir.as_ref().map(|dir| dir.display().to_string()),
        ),
        ("engines.docker.model", model.clone()),
        ("engines.docker.small_model", small_model.clone()),
    ] {
        if let Some(value) = value {
            values.insert(name, Value::String(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, written};

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, size) in [
            ("2g", Some(2 << 30)),
            ("512M", Some(512 << 20)),
            ("64kb", Some(64 << 10)),
            ("1000", Some(1000)),
            ("0", Some(0)),
            ("", None),
            ("g", None),
            ("2.5g", None),
            ("-1", None),
            ("99999999999g", None),
        ] {
            assert_eq!(bytes(text), size, "{text}");
            assert!(size.is_none_or(|size| bytes(&written(size)) == Some(size)));
        }
        assert_eq!(written(2 << 30), "2g");
    }
}
