//! Tests with the real OpenCode.
