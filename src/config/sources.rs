//! Where settings come from: the file, the environment of this process, flags.
//!
//! In: the file that was named, flags. Out: [`Sources`], or what cannot be read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::original;
use super::variables::PREFIX;
use super::{ConfigError, SettingProblem};

/// Where settings come from. Flags win over the environment, which wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's content.
    pub file: String,
    /// Where it was read, if there is one.
    pub path: Option<PathBuf>,
    /// Environment variables: `CHARGEHAND_<SECTION>_<NAME>` and the original's names.
    pub env: BTreeMap<String, String>,
    /// Flags: path of the setting -> value.
    pub flags: BTreeMap<String, String>,
}

impl Sources {
    /// The file (given, or `CHARGEHAND_CONFIG`, or `chargehand/chargehand.toml` in the user's configuration directory if it
    /// is there) and the environment of this process.
    pub fn of_process(
        file: Option<&Path>,
        flags: BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let env = environment(std::env::vars_os())?;
        let named = file
            .map(Path::to_path_buf)
            .or_else(|| env.get("CHARGEHAND_CONFIG").map(PathBuf::from));
        let path = match named {
            Some(path) => Some(path),
            None => usual_file(&env)?,
        };
        let text = match &path {
            Some(path) => std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?,
            None => String::new(),
        };
        Ok(Self {
            file: text,
            path,
            env,
            flags,
        })
    }
}

/// The variables as text. One that could be a setting must be text.
fn environment(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut env = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, value) in all {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => {
                env.insert(name, value);
            }
            Err(_) if name.starts_with(PREFIX) || original::knows(&name) => {
                problems.push(SettingProblem {
                    setting: name,
                    problem: "is no UTF-8 text".to_owned(),
                    allowed: "UTF-8".to_owned(),
                });
            }
            Err(_) => {}
        }
    }
    if problems.is_empty() {
        Ok(env)
    } else {
        Err(ConfigError(problems))
    }
}

/// The user's own file, if it is there. One that cannot be looked at is not taken for absent.
fn usual_file(env: &BTreeMap<String, String>) -> Result<Option<PathBuf>, ConfigError> {
    let base = env
        .get("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env.get("HOME").map(|home| Path::new(home).join(".config")));
    let Some(path) = base.map(|base| base.join("chargehand/chargehand.toml")) else {
        return Ok(None);
    };
    match path.try_exists() {
        Ok(there) => Ok(there.then_some(path)),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError(vec![SettingProblem {
        setting: path.display().to_string(),
        problem: format!("cannot be read ({error})"),
        allowed: "a readable TOML file; --config names another".to_owned(),
    }])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_variable_that_is_no_text_is_told_only_when_it_could_be_a_setting() {
        let one = |name: &str| {
            let value = OsString::from_vec(vec![0xff]);
            environment([(OsString::from(name), value)].into_iter())
        };
        for name in ["CHARGEHAND_SERVER_BIND", "MCP_HOST"] {
            let error = one(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("UTF-8"), "{error}");
        }
        assert_eq!(one("LS_COLORS").unwrap(), BTreeMap::new());
    }
}
