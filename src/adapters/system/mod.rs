//! Clock and identifiers of the machine.
