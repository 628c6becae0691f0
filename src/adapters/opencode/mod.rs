//! OpenCode: one driver for all engines, and the engines `local` and `remote`.
