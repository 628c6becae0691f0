//! What instances left in a container daemon, whoever they are: for `chargehand reap`.
//!
//! In: the settings of the engine. Out: containers and networks with the instance that they carry; the removal of those of one
//! instance, with their secrets. What carries no label of ours is never mentioned.

use std::path::PathBuf;

use chargehand_actors::id::InstanceId;
use chargehand_actors::ports::EngineError;

use super::daemon::Daemon;
use super::names;
use super::place;
use super::settings::DockerSettings;

/// A container or network that carries an instance's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// Whose.
    pub instance: InstanceId,
    /// Its name.
    pub name: String,
    /// Where its instance had its data directory, as far as it tells.
    pub data_dir: Option<PathBuf>,
}

/// Containers and networks of all instances.
///
/// # Errors
/// The daemon does not answer.
pub async fn labelled(settings: &DockerSettings) -> Result<Vec<Labelled>, EngineError> {
    let daemon = Daemon::connect(&settings.endpoint).await?;
    let containers = daemon.containers(None).await?;
    let networks = daemon.networks(None).await?;
    let all = containers.into_iter().chain(networks);
    Ok(all
        .filter_map(|(name, labels)| {
            Some(Labelled {
                instance: InstanceId(labels.get(names::INSTANCE)?.clone()),
                name,
                data_dir: labels.get(names::DATA_DIR).map(PathBuf::from),
            })
        })
        .collect())
}

/// Removes everything of the instance that the settings name; gives how many containers and networks that were.
///
/// # Errors
/// The daemon does not answer, or something is still there.
pub async fn remove_labelled(settings: &DockerSettings) -> Result<usize, EngineError> {
    let daemon = Daemon::connect(&settings.endpoint).await?;
    let instance = settings.instance.to_string();
    let containers = daemon.containers(Some(&instance)).await?;
    for (name, _) in &containers {
        // Podman removes nothing that is frozen. Whether it worked is seen by what is left.
        drop(daemon.unpause(name).await);
        daemon.remove(name).await?;
    }
    let networks = daemon.networks(Some(&instance)).await?;
    for (name, _) in &networks {
        daemon.remove_network(name).await?;
    }
    for name in place::names(settings).await? {
        if names::named(&settings.instance, &name).is_some() {
            place::remove(settings, &name).await?;
        }
    }
    let left = daemon.containers(Some(&instance)).await?.len();
    if left > 0 {
        return Err(EngineError::Fault(format!(
            "{left} containers are still there although the daemon said that they were removed"
        )));
    }
    Ok(containers.len() + networks.len())
}
