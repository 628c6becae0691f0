//! Finding OpenCode, or installing the version that is wanted.
//!
//! In: a configured path, `PATH`, the data directory. Out: a native program of a version that can be driven. What npm puts into
//! `PATH` may be a script that starts the real program as a child; then the program beside it is taken, because the
//! process that is watched must be the worker itself. Asking a program for its version costs 1.2 s of a processor, a third of
//! a worker's start: where the package around it says it, that is believed until a start fails.

use std::env::consts::{ARCH, OS};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chargehand_actors::ports::EngineError;
use tokio::process::Command;

use super::version::Version;

/// Told what the installation does, in words for a person.
pub type InstallProgress = Arc<dyn Fn(&str) + Send + Sync>;

/// How long one run of npm may take.
const NPM_LIMIT: Duration = Duration::from_secs(600);

/// What is taken as a proof that a program is an OpenCode that can be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Its npm package says its version; without one it is run. Whether it runs here is seen when the worker starts.
    Package,
    /// It runs and says its version.
    Run,
}

/// Where OpenCode is: the configured program, or one in `PATH`, or our own of this `version`, which is installed when there is none.
///
/// # Errors
/// `Unusable` says what to do: the configured program is none or too old, npm is missing or failed.
pub async fn find_or_install(
    configured: Option<&Path>,
    version: &str,
    data_dir: &Path,
    proof: Proof,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<PathBuf, EngineError> {
    // OpenCode makes directories in its home even to say its version.
    let scratch = data_dir.join("opencode-check");
    let found = find(configured, version, data_dir, &scratch, proof, progress).await;
    // What is left behind of it is empty directories.
    drop(tokio::fs::remove_dir_all(&scratch).await);
    found
}

async fn find(
    configured: Option<&Path>,
    version: &str,
    data_dir: &Path,
    scratch: &Path,
    proof: Proof,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<PathBuf, EngineError> {
    if let Some(path) = configured {
        return check(path, scratch, proof).await;
    }
    if let Some(path) = in_path() {
        match check(&path, scratch, proof).await {
            Ok(program) => return Ok(program),
            Err(error) => progress(&format!("{} is not used: {error}", path.display())),
        }
    }
    let prefix = data_dir.join(format!("opencode-{version}"));
    if let Some(program) =
        first_working(&native_candidates(&prefix.join("node_modules")), scratch).await
    {
        return Ok(program);
    }
    install(version, &prefix, scratch, progress).await
}

/// The program at `path` or beside it that is OpenCode itself, new enough.
async fn check(path: &Path, scratch: &Path, proof: Proof) -> Result<PathBuf, EngineError> {
    let mut candidates = Vec::new();
    let real = path.canonicalize().map_err(|error| {
        EngineError::Unusable(format!(
            "OpenCode is not at {}: {error}; correct the path, or leave it out to let Chargehand install its own",
            path.display()
        ))
    })?;
    if is_script(&real) {
        // <modules>/opencode-ai/bin/opencode
        for place in real.ancestors().skip(2).take(2) {
            candidates.extend(native_candidates(place));
            candidates.extend(native_candidates(&place.join("node_modules")));
        }
    } else {
        // Of several, only running shows which one this processor can run.
        if proof == Proof::Package
            && let Some(version) = packaged_version(&real)
        {
            return Version::accept(&version).map(|_| real);
        }
        candidates.push(real);
    }
    let mut last = None;
    for candidate in candidates {
        match version_of(&candidate, scratch).await {
            Ok(version) => return Version::accept(&version).map(|_| candidate),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        EngineError::Unusable(format!(
            "{} is a script and the program that it starts was not found beside it; set the path of the program itself, or leave it \
             out to let Chargehand install its own",
            path.display()
        ))
    }))
}

fn in_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join("opencode"))
        .find(|path| path.is_file())
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok_and(|()| &start == b"#!")
}

/// The version of OpenCode's npm package whose program this is: `<package>/bin/opencode`.
fn packaged_version(program: &Path) -> Option<String> {
    let package = program.parent()?.parent()?.join("package.json");
    let package: serde_json::Value = serde_json::from_reader(File::open(package).ok()?).ok()?;
    let ours = package["name"].as_str()?.starts_with("opencode-");
    let version = package["version"].as_str().filter(|_| ours)?;
    Version::parse(version).map(|_| version.to_owned())
}

/// Where npm puts the native program: the one for newer processors first, then those that run everywhere.
fn native_candidates(modules: &Path) -> Vec<PathBuf> {
    let os = if OS == "macos" { "darwin" } else { OS };
    let arch = match ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    ["", "-baseline", "-musl", "-baseline-musl"]
        .iter()
        .map(|variant| {
            modules
                .join(format!("opencode-{os}-{arch}{variant}"))
                .join("bin")
                .join("opencode")
        })
        .filter(|path| path.is_file())
        .collect()
}

async fn first_working(candidates: &[PathBuf], scratch: &Path) -> Option<PathBuf> {
    for candidate in candidates {
        if version_of(candidate, scratch).await.is_ok() {
            return Some(candidate.clone());
        }
    }
    None
}

/// What `--version` prints, in an environment that reads and writes nothing of the user's.
async fn version_of(program: &Path, scratch: &Path) -> Result<String, EngineError> {
    let mut command = Command::new(program);
    command.arg("--version").env_clear().env("HOME", scratch);
    let output = run(command, Duration::from_secs(60))
        .await
        .map_err(|error| unusable(program, &error))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !text.is_empty() {
        Ok(text)
    } else {
        Err(unusable(
            program,
            &format!("it ended with {}", output.status),
        ))
    }
}

fn unusable(program: &Path, why: &str) -> EngineError {
    EngineError::Unusable(format!(
        "{} does not work as OpenCode: {why}; set another path, or leave it out to let Chargehand install its own",
        program.display()
    ))
}

async fn install(
    version: &str,
    prefix: &Path,
    scratch: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<PathBuf, EngineError> {
    let package = format!("opencode-ai@{version}");
    std::fs::create_dir_all(prefix).map_err(|error| {
        EngineError::Unusable(format!("cannot make {}: {error}", prefix.display()))
    })?;
    let mut problem = String::new();
    for attempt in 1..=3_u64 {
        progress(&format!(
            "installing {package} from npm into {} (about 200 MB, once)",
            prefix.display()
        ));
        match run(npm(prefix, &package), NPM_LIMIT).await {
            Ok(output) if output.status.success() => {
                let candidates = native_candidates(&prefix.join("node_modules"));
                if let Some(program) = first_working(&candidates, scratch).await {
                    progress(&format!("installed {package}"));
                    return Ok(program);
                }
                "npm installed it, but no program in it runs on this machine"
                    .clone_into(&mut problem);
            }
            Ok(output) => problem = tail(&output.stderr),
            Err(error) if error.contains("not found") => {
                return Err(EngineError::Unusable(format!(
                    "OpenCode is not installed and npm, which would install it, is not there either; install Node.js with npm, or \
                     OpenCode {version} by other means, and put it into PATH or set its path"
                )));
            }
            Err(error) => problem = error,
        }
        progress(&format!("attempt {attempt} failed: {problem}"));
        tokio::time::sleep(Duration::from_secs(2 * attempt)).await;
    }
    Err(EngineError::Unusable(format!(
        "npm could not install {package}: {problem}; try `npm install --prefix {} {package}` yourself, or install OpenCode by other \
         means and set its path",
        prefix.display()
    )))
}

fn npm(prefix: &Path, package: &str) -> Command {
    let mut command = Command::new("npm");
    command
        .arg("install")
        .arg("--prefix")
        .arg(prefix)
        .arg(package)
        .args(["--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(prefix);
    command
}

async fn run(mut command: Command, limit: Duration) -> Result<Output, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let program = command.as_std().get_program().to_owned();
    match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("{} was not found", name(&program)))
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "{} did not end within {} s",
            name(&program),
            limit.as_secs()
        )),
    }
}

fn name(program: &OsStr) -> String {
    program.to_string_lossy().into_owned()
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("npm gave no reason")
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a fixture that cannot be written must fail the test"
    )]

    use std::os::unix::fs::PermissionsExt;

    use super::super::version::PINNED;
    use super::*;

    fn script(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn a_wrapper_without_its_program_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let wrapper = directory.path().join("bin/opencode");
        script(&wrapper, "#!/bin/sh\necho 1.18.33\n");
        let error = find_or_install(
            Some(&wrapper),
            PINNED,
            directory.path(),
            Proof::Package,
            &|_| {},
        )
        .await
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("set the path of the program itself"),
            "{error}"
        );
        let missing = directory.path().join("nowhere");
        let error = find_or_install(
            Some(&missing),
            PINNED,
            directory.path(),
            Proof::Package,
            &|_| {},
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains("correct the path"), "{error}");
    }

    #[tokio::test]
    async fn the_program_beside_the_wrapper_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let modules = directory.path().join("node_modules");
        let wrapper = modules.join("opencode-ai/bin/opencode");
        script(&wrapper, "#!/bin/sh\n");
        let os = if OS == "macos" { "darwin" } else { OS };
        let arch = if ARCH == "x86_64" { "x64" } else { "arm64" };
        let native = modules.join(format!("opencode-{os}-{arch}-baseline/bin/opencode"));
        script(&native, "#!/bin/sh\necho 1.17.0\n");
        let found = find_or_install(
            Some(&wrapper),
            PINNED,
            directory.path(),
            Proof::Package,
            &|_| {},
        )
        .await
        .unwrap();
        assert_eq!(found, native.canonicalize().unwrap());
        script(&native, "#!/bin/sh\necho 1.2.9\n");
        let error = find_or_install(
            Some(&wrapper),
            PINNED,
            directory.path(),
            Proof::Package,
            &|_| {},
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains("too old"), "{error}");
    }

    #[tokio::test]
    async fn what_its_package_says_is_believed_unless_a_run_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("opencode-linux-x64/bin/opencode");
        // No script, so that it is taken for the program itself, and nothing that runs.
        script(&program, "not a program");
        let find = async |proof| {
            find_or_install(Some(&program), PINNED, directory.path(), proof, &|_| {}).await
        };
        let broken = "does not work as OpenCode";
        let refused = async |proof| find(proof).await.unwrap_err().to_string();
        assert!(refused(Proof::Package).await.contains(broken), "no package");
        let package = directory.path().join("opencode-linux-x64/package.json");
        for (text, says) in [
            (
                r#"{"name": "opencode-linux-x64", "version": "1.18.33"}"#,
                None,
            ),
            (
                r#"{"name": "opencode-linux-x64", "version": "1.2.9"}"#,
                Some("too old"),
            ),
            (
                r#"{"name": "opencode-linux-x64", "version": "new"}"#,
                Some(broken),
            ),
            (
                r#"{"name": "something", "version": "1.18.33"}"#,
                Some(broken),
            ),
            ("{", Some(broken)),
        ] {
            std::fs::write(&package, text).unwrap();
            match says {
                None => assert_eq!(
                    find(Proof::Package).await.unwrap(),
                    program.canonicalize().unwrap()
                ),
                Some(says) => {
                    let error = refused(Proof::Package).await;
                    assert!(error.contains(says), "{text}: {error}");
                }
            }
            let error = refused(Proof::Run).await;
            assert!(error.contains(broken), "{text}: {error}");
        }
    }
}
