//! Health for machines and the debug endpoint for operators.
//!
//! In: HTTP GET. Out: JSON. `health` answers load balancers, `debug` reads the board (no message to any actor) and, with a
//! short deadline, the registry.

mod debug;
mod health;
mod routes;
mod tree_view;

pub(crate) use routes::routes;
