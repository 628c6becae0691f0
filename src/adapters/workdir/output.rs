//! The output files: what a worker says, appended per task, read by offset.
//!
//! In: text as it comes. Out: `<dir>/<task>.log`, never larger than the cap plus one line that says that it was cut, and
//! pieces of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chargehand_actors::id::TaskId;
use chargehand_actors::ports::{OutputError, OutputStore, PortFuture, TextChunk};
use futures_util::FutureExt as _;
use rustix::fs::OFlags;

use super::text::text_chunk;

/// The largest piece in one answer, in bytes.
const PIECE: u64 = 4 * 1024 * 1024;

/// Output files in one directory.
#[derive(Clone, Debug)]
pub struct LocalOutput {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    cap: u64,
    /// Size check and write belong together.
    writing: Mutex<()>,
}

impl LocalOutput {
    /// Files in `dir` (made when it is not there), each at most `cap_bytes` long.
    pub fn new(dir: impl Into<PathBuf>, cap_bytes: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                dir: dir.into(),
                cap: cap_bytes,
                writing: Mutex::new(()),
            }),
        }
    }
}

impl OutputStore for LocalOutput {
    fn append(&self, task: TaskId, text: String) -> PortFuture<'_, Result<(), OutputError>> {
        let inner = Arc::clone(&self.inner);
        on_thread(move || inner.append(task, &text)).boxed()
    }

    fn read(
        &self,
        task: TaskId,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, OutputError>> {
        let inner = Arc::clone(&self.inner);
        on_thread(move || inner.read(task, offset, limit)).boxed()
    }

    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), OutputError>> {
        let inner = Arc::clone(&self.inner);
        on_thread(move || inner.remove(task)).boxed()
    }
}

async fn on_thread<T, F>(work: F) -> Result<T, OutputError>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| OutputError(error.to_string())),
        Err(error) => Err(OutputError(format!("work on the disk ended: {error}"))),
    }
}

impl Inner {
    fn path(&self, task: TaskId) -> PathBuf {
        self.dir.join(format!("{task}.log"))
    }

    fn append(&self, task: TaskId, text: &str) -> io::Result<()> {
        // A panic while writing leaves nothing behind that the next append would not see on the disk.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(task);
        let mut file = match open_to_append(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.dir)?;
                open_to_append(&path)?
            }
            other => other?,
        };
        let before = file.metadata()?.len();
        if before > self.cap {
            // The mark made it longer than the cap.
            return Ok(());
        }
        let room = usize::try_from(self.cap.saturating_sub(before)).unwrap_or(usize::MAX);
        let written = if text.len() <= room {
            file.write_all(text.as_bytes())
        } else {
            let start = text.floor_char_boundary(room);
            let mark = format!(
                "\n[output cut here: the task wrote more than {} bytes]\n",
                self.cap
            );
            file.write_all([&text[..start], &mark].concat().as_bytes())
        };
        if written.is_err() {
            // A repetition must not find half of the text. The first error is the one to tell.
            let _ = file.set_len(before);
        }
        written
    }

    fn remove(&self, task: TaskId) -> io::Result<()> {
        match std::fs::remove_file(self.path(task)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn read(&self, task: TaskId, offset: u64, limit: u64) -> io::Result<TextChunk> {
        match File::open(self.path(task)) {
            Ok(file) => text_chunk(&file, offset, limit.min(PIECE)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(TextChunk::default()),
            Err(error) => Err(error),
        }
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::LocalOutput;
    use chargehand_actors::id::TaskId;
    use chargehand_actors::ports::{OutputStore as _, TextChunk};
    use uuid::Uuid;

    #[tokio::test]
    async fn output_is_appended_and_cut_once_at_the_cap() {
        let dir = tempfile::tempdir().unwrap();
        let output = LocalOutput::new(dir.path().join("deep/er"), 10);
        let task = TaskId::new(Uuid::from_u128(7));
        assert_eq!(
            output.read(task, 0, 10).await.unwrap(),
            TextChunk::default()
        );
        output.append(task, "12345678".to_owned()).await.unwrap();
        output.append(task, "9€ too much".to_owned()).await.unwrap();
        let cut = output.read(task, 0, 1000).await.unwrap();
        assert_eq!(
            cut.text,
            "123456789\n[output cut here: the task wrote more than 10 bytes]\n"
        );
        output.append(task, "dropped".to_owned()).await.unwrap();
        assert_eq!(output.read(task, 0, 1000).await.unwrap(), cut);
        assert_eq!(output.read(task, 5, 4).await.unwrap().text, "6789");
        for _ in 0..2 {
            output.remove(task).await.unwrap();
            let gone = output.read(task, 0, 10).await.unwrap();
            assert_eq!(gone, TextChunk::default());
        }
    }

    #[tokio::test]
    async fn a_link_in_place_of_the_file_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        let task = TaskId::new(Uuid::from_u128(8));
        std::os::unix::fs::symlink(&victim, dir.path().join(format!("{task}.log"))).unwrap();
        let output = LocalOutput::new(dir.path(), 10);
        assert!(output.append(task, "x".to_owned()).await.is_err());
        assert!(!victim.exists());
    }
}
