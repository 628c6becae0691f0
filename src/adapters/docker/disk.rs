//! What the workers use of the disk: watched, because the mounted directories of the host have no quota of their own.
//!
//! In: the known workers. Out: the end of a worker whose workdir and records together have grown over the limit, or cannot be
//! counted, with the reason. Where its end cannot be recorded it is frozen until it can.

use std::sync::Arc;
use std::time::Duration;

use super::containers::Containers;
use super::place;
use crate::adapters::workdir::{Usage, used};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3);

/// Looks for ever.
pub(super) async fn watch(containers: Arc<Containers>) {
    let limit = containers.settings.limits.disk;
    if limit == 0 {
        return;
    }
    loop {
        tokio::time::sleep(EVERY).await;
        for worker in containers.all_known() {
            let name = worker.name.clone();
            let Some(why) = why_to_end(&containers, &name, limit).await else {
                continue;
            };
            tracing::warn!(container = %name, limit, %why, "over its limit of disk; the worker is ended");
            if let Err(error) = containers.end(&name, &why).await {
                tracing::warn!(container = %name, %error, "the worker could not be ended, or its end not recorded; trying again");
            }
        }
    }
}

async fn why_to_end(containers: &Containers, name: &str, limit: u64) -> Option<String> {
    if let Some(why) = containers.ending(name) {
        // Found out by an earlier look. It may be frozen, so that its directories are not counted any more.
        return Some(why);
    }
    let directories = containers.directories(name).await?;
    let counted = place::on_disk("the directories cannot be counted", move || {
        used(&directories, limit)
    });
    match counted.await {
        Ok(usage) => over(&usage, limit),
        Err(error) => {
            // A count that failed says nothing; the next one comes soon.
            tracing::debug!(container = %name, %error, "what the worker uses of the disk is not known");
            None
        }
    }
}

/// Why the worker is to be ended whose directories take that much. One that hides what it wrote is over every limit.
fn over(usage: &Usage, limit: u64) -> Option<String> {
    match usage {
        Usage::Bytes(bytes) if *bytes <= limit => None,
        Usage::Bytes(_) => Some(format!(
            "the worker wrote more than {} MB into its working directory and records (engines.docker.disk); raise the \
             limit, or have it write less",
            limit >> 20
        )),
        Usage::Hidden(what) => Some(format!(
            "{what}, so that what it wrote into its working directory and records cannot be counted and held to {} MB \
             (engines.docker.disk); have it make no such directories",
            limit >> 20
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ended_over_the_limit_and_when_it_hides_what_it_wrote() {
        let limit = 5 << 20;
        assert_eq!(over(&Usage::Bytes(limit), limit), None);
        let said = |usage| over(&usage, limit).unwrap_or_default();
        assert!(said(Usage::Bytes(limit + 1)).contains("more than 5 MB"));
        assert!(said(Usage::Hidden("hidden")).contains("hidden"));
    }
}
