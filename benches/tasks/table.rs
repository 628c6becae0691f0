//! The table of figures, and what the figures were taken on.
//!
//! In: measured values. Out: one line each on standard output: what, n, p50, p99, max, unit, conditions.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A 99th percentile of fewer values than this says nothing: the largest is there for that.
const ENOUGH_FOR_P99: usize = 100;

/// Milliseconds since 1970, with fractions: comparable with the times of events.
pub(crate) fn wall_ms() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
        * 1e3
}

/// Head of a part.
pub(crate) fn section(title: &str) {
    println!("\n{title}");
    println!(
        "  {:<46} {:>5} {:>10} {:>10} {:>10} {:<6} conditions",
        "figure", "n", "p50", "p99", "max", "unit"
    );
}

/// One figure.
pub(crate) fn row(figure: &str, unit: &str, values: &[f64], conditions: &str) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Between two values where the share falls between them.
    let at = |share: f64| {
        let place = (sorted.len() - 1) as f64 * share;
        let (low, high) = (
            sorted[place.floor() as usize],
            sorted[place.ceil() as usize],
        );
        low + (high - low) * place.fract()
    };
    let p99 = if sorted.len() < ENOUGH_FOR_P99 {
        "-".to_owned()
    } else {
        number(at(0.99))
    };
    println!(
        "  {figure:<46} {:>5} {:>10} {p99:>10} {:>10} {unit:<6} {conditions}",
        sorted.len(),
        number(at(0.5)),
        number(at(1.0)),
    );
}

fn number(value: f64) -> String {
    let decimals = if value.abs() < 10.0 { 2 } else { 1 };
    format!("{value:.decimals$}")
}

/// What is printed above the figures.
pub(crate) fn introduce(folder: &Path) {
    let build = if cfg!(debug_assertions) {
        "debug assertions on: these are no release figures"
    } else {
        "release"
    };
    let cpus = read("/proc/cpuinfo");
    let cpu = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("build     {build}");
    println!(
        "machine   {cores} cores, {cpu}, Linux {}",
        read("/proc/sys/kernel/osrelease").trim()
    );
    println!("files     {}", file_system(folder));
    load("at the start");
}

/// Other work on the machine makes every figure worse.
pub(crate) fn load(when: &str) {
    let text = read("/proc/loadavg");
    let load: Vec<&str> = text.split(' ').take(2).collect();
    println!("load      {} {when} (1 and 5 min)", load.join(" "));
}

/// Type of the file system that holds a folder: the mount point with the longest matching path.
fn file_system(folder: &Path) -> String {
    let mounts = read("/proc/self/mounts");
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (point, kind) = (words.nth(1)?, words.next()?);
            folder.starts_with(point).then_some((point.len(), kind))
        })
        .max();
    found.map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
