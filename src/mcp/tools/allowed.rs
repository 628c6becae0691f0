//! Whether a task may start from a directory of this machine.
//!
//! In: a source that names a path here (`directory`, or a `file://` URL), the setting `tasks.allowed_sources`. Out: the
//! same source with the path as it really is (no links in it), or a refusal that names the setting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chargehand_actors::command::Source;
use url::Url;

use crate::mcp::args::BadArguments;

/// How long a disk may take to say what a path is.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// What the setting says, together with who calls.
pub(crate) enum Allowed<'a> {
    /// Nobody but this machine's own user can call, and nothing is set.
    Any,
    /// Only these directories and what is below them.
    Below(&'a [PathBuf]),
}

/// Lets a source through, or says why not. Sources elsewhere are not concerned.
pub(crate) async fn check(source: Source, allowed: &Allowed<'_>) -> Result<Source, BadArguments> {
    let Allowed::Below(directories) = allowed else {
        return Ok(source);
    };
    match source {
        Source::Empty => Ok(Source::Empty),
        Source::Directory { path } => {
            let real = inside("directory", PathBuf::from(path), directories).await?;
            let path = text("directory", &real)?;
            Ok(Source::Directory { path })
        }
        Source::Repository { url, reference } => {
            let local = url
                .get(..5)
                .is_some_and(|start| start.eq_ignore_ascii_case("file:"));
            if !local {
                return Ok(Source::Repository { url, reference });
            }
            // Read as git reads it: escapes are decoded, so that what is checked is what is cloned.
            let path = Url::parse(&url)
                .ok()
                .and_then(|url| url.to_file_path().ok());
            let path = path.ok_or_else(|| unusable("repository.url"))?;
            let real = inside("repository.url", path, directories).await?;
            let url = Url::from_file_path(&real).map_err(|()| unusable("repository.url"))?;
            text("repository.url", &real)?;
            Ok(Source::Repository {
                url: url.to_string(),
                reference,
            })
        }
    }
}

/// The real path, when it is in one of the directories.
async fn inside(
    field: &str,
    path: PathBuf,
    directories: &[PathBuf],
) -> Result<PathBuf, BadArguments> {
    let directories = directories.to_vec();
    let look = tokio::task::spawn_blocking(move || {
        let real = path.canonicalize().ok()?;
        // A directory that is not there allows nothing.
        let real_ones = directories.iter().filter_map(|one| one.canonicalize().ok());
        let mut below = real_ones.filter(|one| real.starts_with(one));
        below.next().is_some().then_some(real)
    });
    match tokio::time::timeout(LOOK_WITHIN, look).await {
        Ok(Ok(Some(real))) => Ok(real),
        // Whether it is there is not said: that would let a caller look around.
        Ok(Ok(None) | Err(_)) => Err(BadArguments::one(
            field,
            "is not in a directory that tasks may start from, or not there",
            "an existing path in one of the directories of the setting tasks.allowed_sources, which an operator can extend",
        )),
        Err(_) => Err(BadArguments::one(
            field,
            format!(
                "is on a disk that did not answer within {} s",
                LOOK_WITHIN.as_secs()
            ),
            "a path on a disk that works; try again later",
        )),
    }
}

fn text(field: &str, path: &Path) -> Result<String, BadArguments> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| unusable(field))
}

fn unusable(field: &str) -> BadArguments {
    BadArguments::one(
        field,
        "names no usable path",
        "an absolute path in UTF-8; as URL file:///absolute/path",
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::{Allowed, Source, check};

    fn directory(path: &std::path::Path) -> Source {
        Source::Directory {
            path: path.to_str().unwrap().to_owned(),
        }
    }

    fn repository(url: String) -> Source {
        Source::Repository {
            url,
            reference: None,
        }
    }

    #[tokio::test]
    async fn only_what_is_really_inside() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for name in ["open/project", "openly", "secret"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        symlink(root.join("secret"), root.join("open/link")).unwrap();
        symlink(root.join("open/project"), root.join("into")).unwrap();
        symlink(root.join("open"), root.join("other name")).unwrap();
        let directories = [root.join("other name"), root.join("nowhere")];
        let allowed = Allowed::Below(&directories);
        let project = root.join("open/project");
        for (path, fine) in [
            (project.clone(), true),
            (root.join("open"), true),
            (root.join("into"), true),
            (root.join("open/../open/project"), true),
            (root.join("openly"), false),
            (root.join("open/link"), false),
            (root.join("open/../secret"), false),
            (root.join("open/missing"), false),
            (root.join("secret"), false),
            ("/".into(), false),
        ] {
            let found = check(directory(&path), &allowed).await;
            assert_eq!(found.is_ok(), fine, "{path:?}: {found:?}");
            if let Err(refused) = found {
                assert!(refused.to_string().contains("tasks.allowed_sources"));
            }
            let url = repository(format!("file://{}", path.to_str().unwrap()));
            assert_eq!(check(url, &allowed).await.is_ok(), fine, "{path:?}");
        }
        // The path that goes on is the real one.
        let found = check(directory(&root.join("into")), &allowed).await;
        assert_eq!(found.unwrap(), directory(&project));
        let at = root.to_str().unwrap();
        for (url, fine) in [
            (format!("file://{at}/open/%70roject"), true),
            (format!("file://{at}/open/%2e%2e/secret"), false),
            (format!("file://{at}/open%2f..%2fsecret"), false),
            (format!("FILE://{at}/secret"), false),
            (format!("file://elsewhere{at}/open"), false),
            ("https://example.org/a.git".to_owned(), true),
            ("git@example.org:a/b".to_owned(), true),
        ] {
            let found = check(repository(url.clone()), &allowed).await;
            assert_eq!(found.is_ok(), fine, "{url}: {found:?}");
        }
        assert!(check(Source::Empty, &Allowed::Below(&[])).await.is_ok());
        assert!(
            check(directory(&project), &Allowed::Below(&[]))
                .await
                .is_err()
        );
        assert!(
            check(directory(&root.join("x")), &Allowed::Any)
                .await
                .is_ok()
        );
    }
}
