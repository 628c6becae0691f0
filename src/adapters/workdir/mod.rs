//! Workdirs and output files.
