//! What the kernel says about a process.
//!
//! In: a pid. Out: memory, threads, CPU time, from `/proc`.

/// Ticks of `/proc/<pid>/stat` in a second: the same on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory in MB.
pub(crate) fn resident_mb(pid: u32) -> f64 {
    field(pid, "VmRSS:") / 1024.0
}

/// Threads.
pub(crate) fn threads(pid: u32) -> f64 {
    field(pid, "Threads:")
}

/// User and system time so far, in milliseconds, by steps of 10.
pub(crate) fn cpu_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let times = rest.split(' ').skip(11).take(2);
    times.map(|time| time.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND * 1e3
}

fn field(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let word = value.unwrap().split_whitespace().next();
    word.unwrap().parse().unwrap()
}
