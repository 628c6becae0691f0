//! The `chargehand` program: parses the command line and calls the library.

use std::process::ExitCode;

use chargehand::adapters::opencode::guard_main;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    // Before anything else: a guard has no configuration, no log and no runtime.
    if words.next().is_some_and(|word| word == "guard") {
        return guard_main(words);
    }
    ExitCode::SUCCESS
}
