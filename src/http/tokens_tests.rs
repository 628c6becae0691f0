#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use chargehand_actors::command::Origin;

use super::{ReloadError, Tokens, same};
use crate::config::{AuthSettings, CallerLimitSettings, Secret, TokenRole, TokenSettings};
use crate::who::Who;

const OLD: &str = "old-0123456789abcdef";
const NEW: &str = "new-0123456789abcdef";
const OTHER: &str = "other-0123456789abcdef";

fn token(name: &str, value: &str, file: Option<&Path>) -> TokenSettings {
    TokenSettings {
        name: name.to_owned(),
        token: Secret::new(value.to_owned()),
        file: file.map(Path::to_path_buf),
        role: TokenRole::Caller,
        agents: Vec::new(),
        limits: CallerLimitSettings::default(),
    }
}

fn settings(tokens: Vec<TokenSettings>) -> AuthSettings {
    AuthSettings {
        tokens,
        ..AuthSettings::default()
    }
}

fn who(tokens: &Tokens, given: &str) -> Option<Who> {
    tokens.who(Some(given), None, Origin::default())
}

#[test]
fn equality() {
    assert!(same(b"abc", b"abc"));
    assert!(!same(b"abc", b"abcabc"));
    assert!(!same(b"abc", b""));
    assert!(!same(b"", b"a"));
}

#[test]
fn a_reload_ends_what_is_removed_and_keeps_the_rest() {
    let tokens = Tokens::new(&settings(vec![
        token("ann", OLD, None),
        token("bob", OTHER, None),
    ]));
    let (ann, bob) = (who(&tokens, OLD).unwrap(), who(&tokens, OTHER).unwrap());
    let mut changes = tokens.changes();
    changes.mark_unchanged();
    tokens
        .reload(&settings(vec![
            token("ann", NEW, None),
            token("bob", OTHER, None),
        ]))
        .unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(who(&tokens, OLD).is_none(), "the old value is refused");
    assert_eq!(who(&tokens, NEW).unwrap().token, "ann");
    assert!(ann.revoked.is_cancelled(), "what the old value holds ends");
    assert!(!bob.revoked.is_cancelled(), "bob goes on");
    tokens
        .reload(&settings(vec![token("ann", NEW, None)]))
        .unwrap();
    assert!(bob.revoked.is_cancelled());
    assert!(who(&tokens, OTHER).is_none());
}

#[test]
fn the_last_token_does_not_open_the_door() {
    let tokens = Tokens::new(&settings(vec![token("ann", OLD, None)]));
    let refused = tokens.reload(&settings(Vec::new()));
    assert!(matches!(refused, Err(ReloadError::NoneLeft)));
    assert!(who(&tokens, OLD).is_some());
    assert!(tokens.who(None, None, Origin::default()).is_none());
}

#[test]
fn the_first_token_closes_the_door() {
    let tokens = Tokens::new(&settings(Vec::new()));
    let local = tokens.who(None, None, Origin::default()).unwrap();
    tokens
        .reload(&settings(vec![token("ann", OLD, None)]))
        .unwrap();
    assert!(local.revoked.is_cancelled());
    assert!(tokens.who(None, None, Origin::default()).is_none());
}

#[test]
fn limits_are_kept_over_a_reload_unless_they_change() {
    let limited = |per_minute| AuthSettings {
        calls_per_minute: per_minute,
        ..settings(vec![token("ann", OLD, None)])
    };
    let tokens = Tokens::new(&limited(1));
    let calls = |tokens: &Tokens| who(tokens, OLD).unwrap().calls.unwrap();
    assert!(calls(&tokens).take().is_ok());
    tokens.reload(&limited(1)).unwrap();
    assert!(calls(&tokens).take().is_err(), "a reload is no way around");
    tokens.reload(&limited(2)).unwrap();
    assert!(calls(&tokens).take().is_ok());
    tokens.reload(&limited(0)).unwrap();
    assert!(who(&tokens, OLD).unwrap().calls.is_none());
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, OLD).unwrap();
    let tokens = Tokens::new(&settings(vec![
        token("ann", OLD, Some(&file)),
        token("bob", OTHER, None),
    ]));
    let mut now = Instant::now();
    let mut look = async || {
        now += Duration::from_secs(1);
        tokens.refresh_at(now).await;
        now
    };
    let at = look().await;
    let ann = who(&tokens, OLD).unwrap();
    std::fs::write(&file, format!("{NEW}\n")).unwrap();
    tokens.refresh_at(at + Duration::from_millis(900)).await;
    assert!(who(&tokens, OLD).is_some(), "at most one look a second");
    look().await;
    assert!(who(&tokens, OLD).is_none());
    assert_eq!(who(&tokens, NEW).unwrap().token, "ann");
    assert!(ann.revoked.is_cancelled());
    // What cannot be a token leaves the last one in force.
    let two_lines = format!("{OLD}\n{OLD}\n");
    for content in ["short", "", OTHER, &two_lines] {
        std::fs::write(&file, content).unwrap();
        look().await;
        assert!(who(&tokens, NEW).is_some(), "{content:?}");
    }
    assert_eq!(who(&tokens, OTHER).unwrap().token, "bob");
    std::fs::remove_file(&file).unwrap();
    look().await;
    assert!(who(&tokens, NEW).is_some());
    // As secrets are rotated: another file moved over it.
    let next = directory.path().join("next");
    std::fs::write(&next, OLD).unwrap();
    std::fs::rename(&next, &file).unwrap();
    look().await;
    assert!(who(&tokens, OLD).is_some() && who(&tokens, NEW).is_none());
}

#[tokio::test]
async fn a_token_file_that_failed_once_is_read_again_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (ann, bob) = (directory.path().join("ann"), directory.path().join("bob"));
    std::fs::write(&ann, OLD).unwrap();
    std::fs::write(&bob, OTHER).unwrap();
    let tokens = Tokens::new(&settings(vec![
        token("ann", OLD, Some(&ann)),
        token("bob", OTHER, Some(&bob)),
    ]));
    let mut now = Instant::now();
    let mut look = async || {
        now += Duration::from_secs(1);
        tokens.refresh_at(now).await;
    };
    look().await;
    // Ann gets what is still Bob's; the file does not change any more when Bob has let go of it.
    std::fs::write(&ann, OTHER).unwrap();
    look().await;
    assert_eq!(who(&tokens, OTHER).unwrap().token, "bob");
    assert_eq!(who(&tokens, OLD).unwrap().token, "ann");
    std::fs::write(&bob, NEW).unwrap();
    look().await;
    look().await;
    assert_eq!(who(&tokens, NEW).unwrap().token, "bob");
    assert_eq!(who(&tokens, OTHER).unwrap().token, "ann");
    assert!(who(&tokens, OLD).is_none(), "the old token is refused");
}
