//! What the simulated histories of this process really met: a trouble that is never drawn tests nothing.
//!
//! In: how often each port call met each fate, of every history. Out: a failure when something that must happen did not.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// So many histories in one process are enough to ask for everything.
const MANY: u64 = 800;
/// Every fate must have been met at each of these.
const CALLS: [&str; 9] = [
    "engine.open",
    "engine.prompt",
    "engine.read",
    "engine.abort",
    "engine.remove",
    "engine.owned",
    "engine.watch",
    "workdirs.prepare",
    "workdirs.collect",
];
const FATES: [&str; 5] = ["fail before", "fail after", "slow", "stale", "fine"];
const CRASHES: [&str; 2] = ["crash before", "crash after"];

static MET: Mutex<BTreeMap<(&'static str, &'static str), u64>> = Mutex::new(BTreeMap::new());
/// Histories, and steps checked in them.
static DONE: Mutex<(u64, u64)> = Mutex::new((0, 0));

/// Adds one history.
pub(crate) fn add(met: BTreeMap<(&'static str, &'static str), u64>, steps: u64) {
    let mut all = MET.lock().unwrap();
    for (key, count) in met {
        *all.entry(key).or_default() += count;
    }
    let mut done = DONE.lock().unwrap();
    *done = (done.0 + 1, done.1 + steps);
}

/// Prints the table. After many histories, fails when something was never met.
pub(crate) fn check() {
    let met = MET.lock().unwrap();
    for ((what, how), count) in met.iter() {
        println!("{count:>9}  {what}: {how}");
    }
    let (histories, steps) = *DONE.lock().unwrap();
    println!("{steps:>9}  steps checked in {histories} histories");
    if histories < MANY {
        return;
    }
    let mut never = Vec::new();
    for what in CALLS {
        for how in FATES {
            if !met.contains_key(&(what, how)) {
                never.push(format!("{what}: {how}"));
            }
        }
    }
    for what in [
        "journal.append",
        "journal.load",
        "engine.prompt",
        "engine.open",
    ] {
        for how in CRASHES {
            if !met.contains_key(&(what, how)) {
                never.push(format!("{what}: {how}"));
            }
        }
    }
    for how in ["hang before", "hang after"] {
        if !met.keys().any(|(_, met)| *met == how) {
            never.push(how.to_owned());
        }
    }
    assert!(never.is_empty(), "never met: {never:?}");
}
