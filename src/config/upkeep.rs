//! `[watchdog]`, `[permissions]` and `[retention]`: what keeps runs, workers and disks within bounds.
//!
//! In: the reader. Out: the typed sections.

use std::time::Duration;

use chargehand_actors::command::{PermissionAction, PermissionRule};

use super::reader::Reader;
use super::settings::{PermissionSettings, RetentionSettings, WatchdogSettings};

pub(super) fn watchdog(reader: &mut Reader, defaults: WatchdogSettings) -> WatchdogSettings {
    let seconds = |reader: &mut Reader, path, default: Duration| {
        Duration::from_secs(reader.number(path, 0..=86_400, default.as_secs()))
    };
    let number = |reader: &mut Reader, path, range, default: u32| {
        u32::try_from(reader.number(path, range, default.into())).unwrap_or(u32::MAX)
    };
    let settings = WatchdogSettings {
        silence_warn: seconds(reader, "watchdog.silence_warn_s", defaults.silence_warn),
        silence_nudge: seconds(reader, "watchdog.silence_nudge_s", defaults.silence_nudge),
        silence_fail: seconds(reader, "watchdog.silence_fail_s", defaults.silence_fail),
        max_steps: number(
            reader,
            "watchdog.max_steps",
            0..=100_000,
            defaults.max_steps,
        ),
        max_provider_retries: number(
            reader,
            "watchdog.max_provider_retries",
            0..=1_000,
            defaults.max_provider_retries,
        ),
        max_unfinished: number(
            reader,
            "watchdog.max_unfinished",
            1..=100,
            defaults.max_unfinished,
        ),
    };
    let ladder = [
        settings.silence_warn,
        settings.silence_nudge,
        settings.silence_fail,
    ];
    let steps: Vec<Duration> = ladder.into_iter().filter(|step| !step.is_zero()).collect();
    if !steps.is_sorted() {
        reader.problem(
            "watchdog.silence_warn_s",
            "comes after a later step of the ladder",
            "silence_warn_s <= silence_nudge_s <= silence_fail_s, or 0 for a step that is not wanted",
        );
    }
    settings
}

pub(super) fn permissions(reader: &mut Reader) -> PermissionSettings {
    PermissionSettings {
        allow: rules(reader, "permissions.allow", PermissionAction::Allow),
        ask: rules(reader, "permissions.ask", PermissionAction::Ask),
        deny: rules(reader, "permissions.deny", PermissionAction::Deny),
    }
}

fn rules(reader: &mut Reader, path: &'static str, action: PermissionAction) -> Vec<PermissionRule> {
    let mut rules = Vec::new();
    for text in reader.list(path) {
        match PermissionRule::parse(&text, action) {
            Some(rule) => rules.push(rule),
            None => reader.problem(
                path,
                format!("contains \"{text}\""),
                "permission or permission:pattern, such as webfetch or \"bash:git push*\"",
            ),
        }
    }
    rules
}

pub(super) fn retention(reader: &mut Reader, defaults: RetentionSettings) -> RetentionSettings {
    const DAY: u64 = 86_400;
    let tasks = reader.number(
        "retention.tasks_days",
        0..=36_500,
        defaults.tasks.as_secs() / DAY,
    );
    let files = reader.number(
        "retention.files_days",
        0..=36_500,
        defaults.files.as_secs() / DAY,
    );
    if tasks > 0 && files > tasks {
        reader.problem(
            "retention.files_days",
            format!("is {files}"),
            format!("at most retention.tasks_days, {tasks}: files go with their task"),
        );
    }
    let free = reader.number(
        "retention.min_free_mb",
        0..=1_048_576,
        defaults.min_free_bytes >> 20,
    );
    RetentionSettings {
        tasks: Duration::from_secs(tasks * DAY),
        files: Duration::from_secs(files * DAY),
        min_free_bytes: free << 20,
    }
}
