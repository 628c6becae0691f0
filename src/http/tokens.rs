//! The tokens that are valid now: one table, swapped as a whole when a token file or the configuration changes.
//!
//! In: [`AuthSettings`] at the start and at each reload; token files, looked at when a request comes and at most once a
//! second. Out: whose a given token is, in constant time; a signal for everything that a removed token still holds.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chargehand_actors::command::Origin;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{AuthSettings, Secret, TokenRole, TokenSettings};
use crate::rate::CallLimit;
use crate::who::{Role, Who};

/// Token files are looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A request does not wait longer than this for a look at the files.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// The shortest token.
const SHORTEST: usize = 16;

/// Why new settings were not taken; the old tokens stay valid.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Without tokens everybody on this machine would be let in.
    #[error(
        "[auth] names no token any more, which would let everybody in who reaches the port; restart Chargehand if that is wanted"
    )]
    NoneLeft,
}

/// The tokens of a running server. Cheap to clone; all clones are one table.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: RwLock<Arc<Table>>,
    source: Mutex<Source>,
    /// Some token comes from a file.
    has_files: AtomicBool,
    /// A look at the files is under way.
    looking: AtomicBool,
    last_look: Mutex<Option<Instant>>,
    changes: watch::Sender<u64>,
}

/// What the table was made from.
#[derive(Debug)]
struct Source {
    settings: AuthSettings,
    stamps: HashMap<PathBuf, Stamp>,
    /// What was last complained about, by file.
    complaints: HashMap<PathBuf, String>,
}

/// What tells that a file is another one, or has another content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug)]
struct Table {
    entries: Vec<Entry>,
    /// Whoever comes while no token is configured.
    local: Option<CancellationToken>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    secret: Secret,
    role: Role,
    agents: Arc<[String]>,
    max_sessions: u32,
    calls: Option<Arc<CallLimit>>,
    revoked: CancellationToken,
}

impl Tokens {
    /// The tokens of these settings.
    pub fn new(settings: &AuthSettings) -> Self {
        let none = Table {
            entries: Vec::new(),
            local: None,
        };
        let tokens = Self(Arc::new(Shared {
            table: RwLock::new(Arc::new(none)),
            source: Mutex::new(Source {
                settings: settings.clone(),
                stamps: HashMap::new(),
                complaints: HashMap::new(),
            }),
            has_files: AtomicBool::new(false),
            looking: AtomicBool::new(false),
            last_look: Mutex::new(None),
            changes: watch::Sender::new(0),
        }));
        tokens.install(settings);
        tokens
    }

    /// Takes new settings. A token that is not among them, or has another value, is refused from now on, and what it
    /// holds (sessions, waiting calls) ends.
    ///
    /// # Errors
    /// There were tokens and there would be none; nothing is changed.
    pub fn reload(&self, settings: &AuthSettings) -> Result<(), ReloadError> {
        let mut source = lock(&self.0.source);
        if settings.tokens.is_empty() && !source.settings.tokens.is_empty() {
            return Err(ReloadError::NoneLeft);
        }
        source.settings = settings.clone();
        // What the settings brought along was read just now; the next look compares the files anyway.
        source.stamps.clear();
        self.install(settings);
        Ok(())
    }

    /// Tells of each change of the table.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Whether anybody is let in without a token.
    pub(crate) fn open_to_all(&self) -> bool {
        self.table().local.is_some()
    }

    /// Whose token this is; `header` and `from` are as the request says.
    pub(super) fn who(
        &self,
        given: Option<&str>,
        header: Option<String>,
        from: Origin,
    ) -> Option<Who> {
        let table = self.table();
        if let Some(revoked) = &table.local {
            return Some(Who {
                token: "local".to_owned(),
                role: Role::Local,
                header,
                agents: Arc::default(),
                from,
                revoked: revoked.clone(),
                max_sessions: None,
                calls: None,
            });
        }
        let given = given?;
        // Every token is compared in full, so that the time says nothing about which one was near.
        let entry = table.entries.iter().fold(None, |found, entry| {
            let matches = same(entry.secret.expose().as_bytes(), given.as_bytes());
            if matches { Some(entry) } else { found }
        })?;
        Some(Who {
            token: entry.name.clone(),
            role: entry.role,
            header,
            agents: Arc::clone(&entry.agents),
            from,
            revoked: entry.revoked.clone(),
            max_sessions: Some(entry.max_sessions),
            calls: entry.calls.clone(),
        })
    }

    /// Reads token files that changed, if it is time to look again. Without requests nothing is done.
    pub(super) async fn refresh(&self) {
        self.refresh_at(Instant::now()).await;
    }

    async fn refresh_at(&self, now: Instant) {
        if !self.0.has_files.load(Ordering::Relaxed) || !self.due(now) {
            return;
        }
        let tokens = self.clone();
        let look = tokio::task::spawn_blocking(move || {
            let _looking = Looking(&tokens.0.looking);
            tokens.look_at_files();
        });
        if tokio::time::timeout(LOOK_WITHIN, look).await.is_err() {
            tracing::warn!(
                "the token files cannot be looked at in time; the tokens known so far stay valid"
            );
        }
    }

    /// Whether this request is the one that looks at the files.
    fn due(&self, now: Instant) -> bool {
        let mut last = lock(&self.0.last_look);
        if last.is_some_and(|last| now.saturating_duration_since(last) < LOOK_EVERY)
            || self.0.looking.swap(true, Ordering::Acquire)
        {
            return false;
        }
        *last = Some(now);
        true
    }

    fn look_at_files(&self) {
        let mut source = lock(&self.0.source);
        let mut changed = false;
        for index in 0..source.settings.tokens.len() {
            changed |= source.look(index);
        }
        if changed {
            let settings = source.settings.clone();
            self.install(&settings);
        }
    }

    fn table(&self) -> Arc<Table> {
        // The table is replaced as a whole: whole after a panic elsewhere.
        Arc::clone(&self.0.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the table of these settings the valid one; what is no longer in it is told so.
    fn install(&self, settings: &AuthSettings) {
        let old = self.table();
        let new = Arc::new(Table::of(settings, &old));
        {
            let mut table = self.0.table.write().unwrap_or_else(PoisonError::into_inner);
            *table = Arc::clone(&new);
        }
        let has_files = settings.tokens.iter().any(|token| token.file.is_some());
        self.0.has_files.store(has_files, Ordering::Relaxed);
        for gone in old.entries.iter().filter(|entry| !new.keeps(entry)) {
            tracing::info!(target: "audit", token = gone.name, "the token is no longer valid");
            gone.revoked.cancel();
        }
        if let Some(local) = old.local.as_ref().filter(|_| new.local.is_none()) {
            local.cancel();
        }
        self.0.changes.send_modify(|change| *change += 1);
    }
}

impl Table {
    fn of(settings: &AuthSettings, old: &Self) -> Self {
        let entries = settings
            .tokens
            .iter()
            .map(|token| Entry::of(token, settings, old));
        let local = || old.local.clone().unwrap_or_default();
        Self {
            entries: entries.collect(),
            local: settings.tokens.is_empty().then(local),
        }
    }

    fn keeps(&self, old: &Entry) -> bool {
        let same = |entry: &Entry| entry.name == old.name && entry.secret == old.secret;
        self.entries.iter().any(same)
    }
}

impl Entry {
    fn of(token: &TokenSettings, settings: &AuthSettings, old: &Table) -> Self {
        let before = old.entries.iter().find(|entry| entry.name == token.name);
        let role = match token.role {
            TokenRole::Caller => Role::Caller,
            TokenRole::Operator => Role::Operator,
        };
        // Whoever has to step in when something is wrong is not held up by everybody's limit.
        let everybodys = match token.role {
            TokenRole::Caller => settings.calls_per_minute,
            TokenRole::Operator => 0,
        };
        let per_minute = token.limits.calls_per_minute.unwrap_or(everybodys);
        let calls = (per_minute > 0).then(|| {
            let kept = before.and_then(|entry| entry.calls.clone());
            kept.filter(|calls| calls.per_minute() == per_minute)
                .unwrap_or_else(|| Arc::new(CallLimit::new(per_minute)))
        });
        let kept = before.filter(|entry| entry.secret == token.token);
        Self {
            name: token.name.clone(),
            secret: token.token.clone(),
            role,
            agents: token.agents.clone().into(),
            max_sessions: token
                .limits
                .max_sessions
                .unwrap_or(settings.max_sessions_per_token),
            calls,
            revoked: kept.map_or_else(CancellationToken::new, |entry| entry.revoked.clone()),
        }
    }
}

impl Source {
    /// Reads the file of a token again if it changed; whether the token has another value now. A file that cannot be
    /// used leaves the old value: it may be about to be replaced. It is looked at again each time, and complained about once.
    fn look(&mut self, index: usize) -> bool {
        let Some(token) = self.settings.tokens.get(index) else {
            return false;
        };
        let Some(file) = token.file.clone() else {
            return false;
        };
        // The stamp is taken before the content: what is written in between is seen at the next look.
        let stamp = Stamp::at(&file);
        if self.stamps.get(&file) == Some(&stamp) {
            return false;
        }
        let name = token.name.clone();
        match self.value(index, &file) {
            Ok(secret) => {
                self.complaints.remove(&file);
                self.stamps.insert(file.clone(), stamp);
                let Some(token) = self.settings.tokens.get_mut(index) else {
                    return false;
                };
                let changed = token.token != secret;
                if changed {
                    tracing::info!(target: "audit", token = name, file = %file.display(), "the token was read again");
                    token.token = secret;
                }
                changed
            }
            Err(problem) => {
                // What failed may be over without a change of the file; remembered, it would never be read again.
                self.stamps.remove(&file);
                self.complain(&name, file, problem);
                false
            }
        }
    }

    fn complain(&mut self, name: &str, file: PathBuf, problem: String) {
        if self.complaints.get(&file) == Some(&problem) {
            return;
        }
        tracing::error!(
            target: "audit",
            token = name,
            file = %file.display(),
            "the token file {problem}; the token as it was stays valid"
        );
        self.complaints.insert(file, problem);
    }

    /// The token in a file, or what is wrong with it.
    fn value(&self, index: usize, file: &Path) -> Result<Secret, String> {
        let text =
            std::fs::read_to_string(file).map_err(|error| format!("cannot be read ({error})"))?;
        let text = text.trim();
        if text.len() < SHORTEST {
            return Err(format!("holds fewer than {SHORTEST} bytes"));
        }
        // As the start does: no client could send it.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("holds a space, a line break or a character that is not ASCII".to_owned());
        }
        let secret = Secret::new(text.to_owned());
        let others = self.settings.tokens.iter().enumerate();
        let taken = others
            .filter(|(other, _)| *other != index)
            .any(|(_, token)| token.token == secret);
        if taken {
            return Err("holds the token of somebody else".to_owned());
        }
        Ok(secret)
    }
}

impl Stamp {
    /// The stamp of a file; all zero when there is none.
    fn at(file: &Path) -> Self {
        std::fs::metadata(file).map_or_else(
            |_| Self::default(),
            |data| Self {
                device: data.dev(),
                inode: data.ino(),
                size: data.size(),
                modified: (data.mtime(), data.mtime_nsec()),
                changed: (data.ctime(), data.ctime_nsec()),
            },
        )
    }
}

/// Says that the look is over, however it ended.
struct Looking<'a>(&'a AtomicBool);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is held here is replaced or compared, never half written: whole after a panic elsewhere.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Equality whose time depends only on the length of what was given.
fn same(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(secret.len() != given.len());
    for (index, byte) in given.iter().enumerate() {
        let expected = secret
            .get(index % secret.len().max(1))
            .copied()
            .unwrap_or_default();
        difference |= expected ^ byte;
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
