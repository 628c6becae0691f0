//! The command line itself: what is accepted, what is refused, and with which exit code.
#![expect(clippy::unwrap_used, reason = "tests")]

use clap::{CommandFactory, Parser};

use chargehand::cli::Cli;

use crate::cli_support::chargehand;

#[test]
fn the_declaration_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_refused_says_why() {
    for (args, reason) in [
        (&["run", "  "][..], "must not be empty"),
        (&["run", "x", "--model", "gpt"], "expected PROVIDER/MODEL"),
        (
            &["run", "x", "--timeout", "soon"],
            "expected a time such as 90s",
        ),
        (&["run", "x", "--timeout", "10ms"], "must be at least 1s"),
        (&["run", "x", "--ref", "main"], "--repo <URL>"),
        (
            &["run", "x", "--repo", "a", "--dir", "b"],
            "cannot be used with",
        ),
        (
            &["message", "3f2b", "hi", "--type", "gossip"],
            "possible values: update, feedback",
        ),
        (&["tasks", "-n", "0"], "0 is not in 1..=500"),
    ] {
        let args = ["chargehand"].iter().chain(args);
        let error = Cli::try_parse_from(args).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason:?} is not in {error}");
    }
}

#[test]
fn the_last_of_watch_and_no_watch_holds() {
    let parse = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
        chargehand::cli::Command::Run(run) => run.no_watch,
        other => panic!("{other:?}"),
    };
    assert!(!parse(&["chargehand", "run", "x"]));
    assert!(parse(&["chargehand", "run", "x", "--watch", "--no-watch"]));
    assert!(!parse(&["chargehand", "run", "x", "--no-watch", "--watch"]));
}

#[tokio::test]
async fn help_names_the_commands_and_the_exit_codes() {
    let help = chargehand(&["--help"], "").await;
    assert_eq!(help.code, Some(0));
    insta::assert_snapshot!(help.out);
}

#[tokio::test]
async fn a_mistake_is_exit_code_2_on_standard_error() {
    let mistake = chargehand(&["juggle"], "").await;
    assert_eq!(mistake.code, Some(2));
    assert_eq!(mistake.out, "");
    assert!(
        mistake.err.contains("unrecognized subcommand 'juggle'"),
        "{}",
        mistake.err
    );
}
