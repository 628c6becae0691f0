//! Marks are exactly what was done, for any sequence of operations, in lists, results and patches alike.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use chargehand_actors::event::FileMark;
use proptest::prelude::*;

use super::support::{Disk, changed, marks, patch_gives_the_branch, write};

/// What a path is: content and rights, or a link's text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    File(Vec<u8>, bool),
    Link(String),
}

const NAMES: [&str; 8] = ["a", "b", "d/a", "d/b", "d/e/a", "x y", "ä\n", "-rf"];

fn things() -> impl Strategy<Value = BTreeMap<&'static str, Thing>> {
    let content = prop_oneof![
        "[a-c\n]{0,12}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..12),
    ];
    let thing = prop_oneof![
        4 => (content, any::<bool>()).prop_map(|(content, run)| Thing::File(content, run)),
        1 => "[a-z/.]{1,8}".prop_map(Thing::Link),
    ];
    proptest::collection::btree_map(proptest::sample::select(&NAMES[..]), thing, 0..NAMES.len())
}

fn make(dir: &Path, things: &BTreeMap<&str, Thing>) {
    for (path, thing) in things {
        match thing {
            Thing::File(content, run) => {
                write(dir, path, content);
                let mode = if *run { 0o755 } else { 0o644 };
                std::fs::set_permissions(dir.join(path), PermissionsExt::from_mode(mode)).unwrap();
            }
            Thing::Link(target) => {
                std::fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
                symlink(target, dir.join(path)).unwrap();
            }
        }
    }
}

fn expected(
    before: &BTreeMap<&str, Thing>,
    after: &BTreeMap<&str, Thing>,
) -> Vec<(String, FileMark)> {
    let mut marks = BTreeMap::new();
    for path in NAMES {
        let mark = match (before.get(path), after.get(path)) {
            (None, None) => continue,
            (None, Some(_)) => FileMark::Added,
            (Some(_), None) => FileMark::Deleted,
            (Some(then), Some(now)) if then == now => continue,
            (Some(_), Some(_)) => FileMark::Modified,
        };
        marks.insert(path.replace('\n', "\\x0a"), mark);
    }
    marks.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn marks_are_what_was_done(before in things(), after in things(), third in things()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let disk = Disk::new();
            let work = disk.prepare_with(|dir| make(dir, &before)).await;
            for now in [&before, &after, &third] {
                for entry in std::fs::read_dir(&work).unwrap() {
                    let path = entry.unwrap().path();
                    if path.ends_with(".git") {
                        continue;
                    }
                    std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)).unwrap();
                }
                make(&work, now);
                let expected = expected(&before, now);
                assert_eq!(marks(&disk.list().await), expected);
                let changes = disk.collect().await;
                let mut sorted = changed(&changes);
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                let mut wanted = expected.clone();
                wanted.sort_by(|a, b| a.0.cmp(&b.0));
                assert_eq!(sorted, wanted);
                if expected.is_empty() {
                    assert_eq!(changes.branch, None);
                } else {
                    patch_gives_the_branch(&disk, &changes);
                }
            }
        });
    }
}
