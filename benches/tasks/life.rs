//! One life of the whole product: a server on a new data directory, its OpenCode, and the scripted model behind it.
//!
//! In: nothing. Out: a [`Life`] whose engine is ready, and how long it took to come there.

use chargehand::adapters::opencode::{PINNED, Proof, find_or_install};
use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use crate::opencode::{Ends, Worker};
use crate::server::{Client, Server, folder};

/// A running product. It is ended in the order of the fields.
pub(crate) struct Life {
    pub(crate) ends: Ends,
    pub(crate) server: Server,
    pub(crate) worker: Worker,
    pub(crate) client: Client,
    /// From the spawn until `/health` answered, in milliseconds.
    pub(crate) answered: f64,
    /// From the spawn until the engine was ready, in milliseconds.
    pub(crate) ready: f64,
    /// For directories of the measurement.
    pub(crate) place: TempDir,
}

/// What all lives share.
pub(crate) struct World {
    model: ScriptedModel,
    program: PathBuf,
}

impl World {
    /// A model, and OpenCode: `CHARGEHAND_OPENCODE`, `PATH`, or an installation below the target directory.
    pub(crate) async fn new() -> Self {
        let configured = std::env::var_os("CHARGEHAND_OPENCODE").map(PathBuf::from);
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let tell = |line: &str| eprintln!("{line}");
        let program = find_or_install(configured.as_deref(), PINNED, place, Proof::Package, &tell);
        let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new());
        Self {
            program: program.await.unwrap(),
            model: model.await.unwrap(),
        }
    }

    /// Starts one and waits until its engine is ready.
    pub(crate) async fn life(&self) -> Life {
        let place = folder();
        let settings = json!({
            "engine": {"default": "local", "on_stop": "end_workers"},
            "engines": {"local": {"opencode": self.program,
                "opencode_config": opencode_provider_config(&self.model.base_url())}},
        });
        let mut server = Server::spawn(place.path(), &settings);
        let answered = server.answers().await;
        let ready = server.engine_ready().await;
        let worker = Worker::recorded(&server.data());
        Life {
            ends: worker.watch().await,
            client: server.client(),
            server,
            worker,
            answered,
            ready,
            place,
        }
    }
}

/// A task description that makes the model answer by this script.
pub(crate) fn description(script: &Value) -> String {
    format!("Answer as the script says. <script>{script}</script>")
}

/// The model's answer comes after this time, in one turn, without tools.
pub(crate) const MODEL_MS: f64 = 100.0;

/// The script with that answer.
pub(crate) fn one_answer() -> String {
    description(&json!({"turns": [{"delay_ms": MODEL_MS as u64, "text": "Done."}]}))
}
