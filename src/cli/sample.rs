//! The demo's project: a small program with a mistake, its test, and the script of the model that mends it.
//!
//! In: nothing. Out: a temporary directory with a git repository of one commit, and a [`Scenario`]. The script calls
//! OpenCode's real tools: what it reads, edits and runs really happens.

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::error::CliError;
use crate::scripted_model::{Match, Scenario, ToolCall, Turn};

/// What the worker is asked to do, whatever model is behind it.
pub(crate) const TASK: &str = "test.sh fails. Find the mistake in leap.sh, mend it, run test.sh to show that it \
                               passes now, and write down in CHANGES.md what was wrong.";

const PROGRAM: &str = "\
#!/bin/sh
# Says whether a year is a leap year in the Gregorian calendar.
year=$1

if [ $((year % 4)) -eq 0 ]; then
  echo yes
else
  echo no
fi
";

const TEST: &str = "\
#!/bin/sh
# Years whose answer is known.
wrong=0
check() {
  got=$(sh leap.sh \"$1\")
  if [ \"$got\" = \"$2\" ]; then
    echo \"ok    $1 $2\"
  else
    echo \"WRONG $1: expected $2, got $got\"
    wrong=$((wrong + 1))
  fi
}
check 2024 yes
check 2023 no
check 1900 no
check 2000 yes
echo \"$wrong wrong\"
[ \"$wrong\" -eq 0 ]
";

const MISTAKE: &str = "if [ $((year % 4)) -eq 0 ]; then";
const MENDED: &str =
    "if [ $((year % 4)) -eq 0 ] && [ $((year % 100)) -ne 0 ] || [ $((year % 400)) -eq 0 ]; then";

const NOTE: &str = "\
# Changes

- `leap.sh` called every year divisible by 4 a leap year. Full centuries are
  leap years only when 400 divides them: 1900 is none, 2000 is one.
";

/// Makes the project in a new temporary directory, which is removed when the value is dropped.
pub(crate) fn create() -> Result<tempfile::TempDir, CliError> {
    let directory = tempfile::Builder::new()
        .prefix("chargehand-demo-")
        .tempdir()
        .map_err(|error| CliError::Server(format!("cannot make a temporary directory: {error}")))?;
    for (name, content) in [("leap.sh", PROGRAM), ("test.sh", TEST)] {
        let path = directory.path().join(name);
        std::fs::write(&path, content).map_err(|source| CliError::File {
            what: "cannot write",
            path,
            source,
        })?;
    }
    let path = directory.path();
    git(path, &["init", "--quiet", "--initial-branch=main"])?;
    git(path, &["add", "."])?;
    git(
        path,
        &[
            "commit",
            "--quiet",
            "--message",
            "A leap year program and its test",
        ],
    )?;
    Ok(directory)
}

fn git(directory: &Path, args: &[&str]) -> Result<(), CliError> {
    let identity = [
        "-c",
        "user.name=Chargehand demo",
        "-c",
        "user.email=demo@chargehand.invalid",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "core.hooksPath=/dev/null",
    ];
    let output = Command::new("git")
        .args(identity)
        .args(args)
        .current_dir(directory)
        .output()
        .map_err(|error| {
            CliError::Server(format!(
                "git cannot be run ({error}); install git, then try again"
            ))
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(CliError::Server(format!(
        "git {} failed: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// What the scripted model does: look, run the test, mend, run it again, write it down, answer.
pub(crate) fn script() -> Scenario {
    let file = |name: &str| json!(format!("{{{{cwd}}}}/{name}"));
    let run = || {
        call(
            "bash",
            json!({ "command": "sh test.sh", "description": "Run the test" }),
        )
    };
    Scenario {
        name: "demo".to_owned(),
        matches: Match::default(),
        turns: vec![
            turn(
                "I look at the program and its test first.",
                vec![
                    call("read", json!({ "filePath": file("leap.sh") })),
                    call("read", json!({ "filePath": file("test.sh") })),
                ],
            ),
            turn("Now I run the test to see it fail.", vec![run()]),
            turn(
                "1900 is taken for a leap year: the rule for full centuries is missing.",
                vec![call(
                    "edit",
                    json!({ "filePath": file("leap.sh"), "oldString": MISTAKE, "newString": MENDED }),
                )],
            ),
            turn("The test again.", vec![run()]),
            turn(
                "It passes. I write down what was wrong.",
                vec![call(
                    "write",
                    json!({ "filePath": file("CHANGES.md"), "content": NOTE }),
                )],
            ),
            turn(
                "Mended: leap.sh took every year divisible by 4 for a leap year.\n\
                 It now knows that full centuries are leap years only when 400 divides them.\n\
                 test.sh passes, and CHANGES.md says what was wrong.",
                Vec::new(),
            ),
        ],
        on_message: Vec::new(),
    }
}

fn turn(text: &str, tools: Vec<ToolCall>) -> Turn {
    Turn {
        text: text.to_owned(),
        tools,
        // As fast as a quick model: what is watched is the real worker, not the typing.
        chunk_delay_ms: 10,
        ..Turn::default()
    }
}

fn call(name: &str, args: Value) -> ToolCall {
    ToolCall {
        name: name.to_owned(),
        args: match args {
            Value::Object(args) => args,
            _ => Map::new(),
        },
    }
}
