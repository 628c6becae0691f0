//! Memory, rooms and notices: what is there when nothing is configured.
