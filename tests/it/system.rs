//! Clock, identifiers and the data directory of this machine.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chargehand::adapters::system::{DataDir, DataDirError, DiskSpace, SystemClock, SystemIds};
use chargehand_actors::id::WallTime;
use chargehand_actors::ports::{Clock, Ids, Space};

struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> WallTime {
        WallTime(self.0.load(Ordering::Relaxed))
    }
}

#[test]
fn the_clock_tells_milliseconds_of_this_century() {
    let now = SystemClock.now().0;
    assert!(
        (1_600_000_000_000..4_000_000_000_000).contains(&now),
        "{now}"
    );
}

#[tokio::test]
async fn a_disk_is_low_when_less_is_free_than_must_be() {
    let place = tempfile::tempdir().unwrap();
    let here = place.path().to_owned();
    let far = here.join("not/there/yet");
    let of = |directories: Vec<_>, min| DiskSpace::new(directories, min);
    assert!(!of(vec![here.clone()], 0).watched());
    assert_eq!(of(vec![here.clone()], 0).low().await, None);
    assert_eq!(of(vec![here.clone(), far.clone()], 1).low().await, None);
    let low = of(vec![here.clone()], u64::MAX).low().await.unwrap();
    assert!(
        low.contains(&format!("on the disk of {}", here.display())),
        "{low}"
    );
    assert!(low.contains("retention.min_free_mb"), "{low}");
    // A directory that is not there yet lies on the disk of the one above it.
    assert!(of(vec![far], u64::MAX).low().await.is_some());
    // A path that can be no directory: not known, so not called low.
    let odd = "x\0y".into();
    assert_eq!(of(vec![odd], u64::MAX).low().await, None);
}

#[test]
fn ascending_ids_ascend_when_the_clock_stands_still_and_steps_back() {
    let clock = Arc::new(SetClock(AtomicI64::new(1_800_000_000_000)));
    let ids = SystemIds::with_clock(clock.clone());
    let first = ids.ascending();
    assert_eq!(first.len(), 26);
    assert!(
        first
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    );
    // OpenCode's own form: the low 48 bits of ms * 4096 + counter.
    let low = (1_800_000_000_000_u64 * 4096) & ((1 << 48) - 1);
    assert_eq!(u64::from_str_radix(&first[..12], 16), Ok(low));
    let mut newest = first;
    for step in [0, 0, 5, -60_000, -60_000, 0, 1] {
        clock.0.fetch_add(step, Ordering::Relaxed);
        let next = ids.ascending();
        assert!(next[..12] > newest[..12], "{next} after {newest}");
        newest = next;
    }
    clock.0.store(1_800_000_010_000, Ordering::Relaxed);
    let later = u64::from_str_radix(&ids.ascending()[..12], 16);
    assert_eq!(later, Ok(low + 10_000 * 4096));
}

#[test]
fn ascending_ids_of_many_threads_are_all_different() {
    let ids = SystemIds::default();
    let heads: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..2_000).map(|_| ids.ascending()).collect::<Vec<_>>()))
            .collect();
        let lists = threads.into_iter().map(|t| t.join().unwrap());
        lists
            .inspect(|list| assert!(list.is_sorted()))
            .flatten()
            .map(|id| id[..12].to_owned())
            .collect()
    });
    assert_eq!(heads.iter().collect::<BTreeSet<_>>().len(), 8_000);
}

#[test]
fn jitter_is_spread_between_0_and_1() {
    let ids = SystemIds::default();
    let draws: Vec<f64> = (0..1_000).map(|_| ids.jitter()).collect();
    assert!(draws.iter().all(|j| (0.0..1.0).contains(j)));
    // Each tenth is empty with a probability of 1e-46.
    for tenth in 0..10 {
        let range = f64::from(tenth) / 10.0..f64::from(tenth + 1) / 10.0;
        assert!(draws.iter().any(|j| range.contains(j)), "{range:?}");
    }
    assert_eq!(ids.uuid().get_version_num(), 4);
}

#[test]
fn the_data_directory_is_private_and_keeps_its_instance() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/data");
    let first = DataDir::lock(&path).unwrap();
    assert_eq!(first.path(), path);
    let id = first.instance().clone();
    assert!(id.0.len() == 12 && id.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    drop(first);
    assert_eq!(*DataDir::lock(&path).unwrap().instance(), id);
    let other = DataDir::lock(folder.path().join("other")).unwrap();
    assert_ne!(*other.instance(), id);
}

#[test]
fn a_directory_in_use_names_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let held = DataDir::lock(folder.path()).unwrap();
    let text = DataDir::lock(folder.path()).unwrap_err().to_string();
    let me = format!("in use by process {};", std::process::id());
    assert!(text.contains(&me), "{text}");
    // A process that we start does not hold it for us after our end.
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    drop(held);
    let again = DataDir::lock(folder.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(again.is_ok(), "{again:?}");
}

#[test]
fn the_lock_of_another_process_holds_until_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    drop(DataDir::lock(folder.path()).unwrap());
    // flock(1) is another program on the same kernel lock; the shell that it becomes says when it has it.
    let mut other = Command::new("flock")
        .arg("--no-fork")
        .arg(folder.path().join("lock"))
        .args(["sh", "-c", "echo $$ > \"$0\"; echo held; exec sleep 60"])
        .arg(folder.path().join("lock"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = other.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let refused = DataDir::lock(folder.path());
    other.kill().unwrap();
    other.wait().unwrap();
    let Err(DataDirError::InUse { holder, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(holder, format!("process {}", other.id()));
    DataDir::lock(folder.path()).unwrap();
}

#[test]
fn the_lock_of_a_dead_process_is_waited_for_a_moment() {
    let folder = tempfile::tempdir().unwrap();
    drop(DataDir::lock(folder.path()).unwrap());
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let file = folder.path().join("lock");
    fs::write(&file, format!("{}\n", dead.id())).unwrap();
    // As a program has it that the dead one was just starting.
    let held = fs::File::open(&file).unwrap();
    held.lock().unwrap();
    let letting_go = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(held);
    });
    DataDir::lock(folder.path()).unwrap();
    letting_go.join().unwrap();
    // One that keeps it for good is somebody.
    fs::write(&file, format!("{}\n", dead.id())).unwrap();
    let held = fs::File::open(&file).unwrap();
    held.lock().unwrap();
    let refused = DataDir::lock(folder.path());
    assert!(
        matches!(refused, Err(DataDirError::InUse { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_damaged_instance_file_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    drop(DataDir::lock(folder.path()).unwrap());
    let file = folder.path().join("instance");
    for wrong in ["", "0123456789AB\n", "0123456789abc"] {
        let mut out = fs::File::create(&file).unwrap();
        out.write_all(wrong.as_bytes()).unwrap();
        let problem = DataDir::lock(folder.path()).unwrap_err();
        assert!(matches!(problem, DataDirError::BadInstance { .. }));
        assert_eq!(fs::read_to_string(&file).unwrap(), wrong);
    }
}
