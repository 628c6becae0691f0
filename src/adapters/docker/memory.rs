//! How much memory the workers' containers hold, as the daemon counts it: for health and metrics, no decision rests on it.
//!
//! In: the known workers. Out: bytes, looked at every ten seconds. A container that has just ended, or a daemon that does not answer in time, counts for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::models::ContainerMemoryStats;
use bollard::query_parameters::StatsOptionsBuilder;
use chargehand_actors::ports::EngineError;
use futures_util::{StreamExt, stream};

use super::containers::Containers;
use super::daemon::{Daemon, call};

/// How often it is looked while there are workers.
const EVERY: Duration = Duration::from_secs(10);
/// How many containers are asked about at the same time.
const AT_ONCE: usize = 8;

/// What all workers held at the last look.
#[derive(Debug, Default)]
pub(super) struct Memory(AtomicU64);

impl Memory {
    /// In bytes.
    pub(super) fn held(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Looks for ever.
pub(super) async fn watch(containers: Arc<Containers>) {
    loop {
        let workers = containers.all_known().into_iter();
        let names: Vec<String> = workers.map(|worker| worker.name.clone()).collect();
        if let Ok(daemon) = containers.daemon() {
            let held = of_all(&daemon, names).await;
            containers.memory.0.store(held, Ordering::Relaxed);
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn of_all(daemon: &Daemon, names: Vec<String>) -> u64 {
    stream::iter(names)
        .map(|name| async move { of(daemon, &name).await.unwrap_or(0) })
        .buffer_unordered(AT_ONCE)
        .fold(0, |sum, one| async move { sum + one })
        .await
}

async fn of(daemon: &Daemon, name: &str) -> Result<u64, EngineError> {
    let once = StatsOptionsBuilder::default().stream(false).one_shot(true);
    let mut told = std::pin::pin!(daemon.docker.stats(name, Some(once.build())));
    let told = call("tell what a container uses", async {
        told.next().await.transpose()
    });
    let told = told.await?.and_then(|told| told.memory_stats);
    Ok(told.as_ref().map_or(0, held))
}

/// Without the part of the page cache that the kernel takes back at need: what `docker stats` shows.
fn held(told: &ContainerMemoryStats) -> u64 {
    let count = |name| told.stats.as_ref().and_then(|stats| stats.get(name));
    let cache = count("inactive_file").or_else(|| count("total_inactive_file"));
    let usage = told.usage.unwrap_or(0);
    usage.saturating_sub(cache.copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn memory_is_counted_without_the_cache_that_can_be_taken_back() {
        let told = |usage, stats: &[(&str, u64)]| ContainerMemoryStats {
            usage,
            stats: Some(
                stats
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), *value))
                    .collect::<HashMap<_, _>>(),
            ),
            ..ContainerMemoryStats::default()
        };
        let table = [
            // cgroup v2, cgroup v1, Podman, a container that has just ended.
            (told(Some(300), &[("inactive_file", 100), ("anon", 1)]), 200),
            (told(Some(300), &[("total_inactive_file", 50)]), 250),
            (told(Some(300), &[]), 300),
            (ContainerMemoryStats::default(), 0),
        ];
        for (told, wanted) in table {
            assert_eq!(held(&told), wanted, "{told:?}");
        }
    }
}
