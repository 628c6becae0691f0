//! The `chargehand` program. In: the command line. Out: an exit code; everything is done by the library.

use std::process::ExitCode;

use chargehand::adapters::opencode::guard_main;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    // Before anything else: a guard has no configuration, no log and no runtime.
    if words.next().is_some_and(|word| word == "guard") {
        return guard_main(words);
    }
    chargehand::cli::main()
}
