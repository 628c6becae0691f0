//! The MCP front-end.
