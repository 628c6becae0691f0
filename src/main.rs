//! The `chargehand` program. In: the command line. Out: an exit code; everything is done by the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chargehand::cli::main()
}
