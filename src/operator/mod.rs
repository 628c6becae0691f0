//! Health for machines, metrics and the debug endpoint for operators.
//!
//! In: HTTP GET. Out: JSON, metrics as text. `health` answers load balancers, `debug` reads the board (no message to any actor) and, with a
//! short deadline, the registry.

mod debug;
mod disks;
mod families;
mod health;
mod metrics;
mod routes;
mod tree_view;

pub(crate) use routes::routes;
