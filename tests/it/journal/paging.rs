//! Lists by pages against a model: every task once, newest first, whatever the filter and the size of a page.

use chargehand_actors::command::Identity;
use chargehand_actors::event::Phase;
use chargehand_actors::id::WallTime;
use chargehand_actors::ports::{JournalStore, ListFilter};
use chargehand_actors::view::TaskView;
use proptest::prelude::*;
use proptest::sample::select;

use super::support::{Desk, accepted, caller, task_id, view};

fn task() -> impl Strategy<Value = TaskView> {
    // Few values, so that times collide and filters hit.
    let labels = proptest::sample::subsequence(vec!["x", "y"], 0..=2);
    (
        0_u128..1_000,
        0_i64..6,
        select(&Phase::ALL[..]),
        select(vec!["t1", "t2"]),
        select(vec!["a", "b"]),
        labels,
    )
        .prop_map(|(id, created, phase, token, agent, labels)| {
            let mut row = view(task_id(id), phase, created);
            row.caller = caller(token, agent);
            row.spec.labels = labels.into_iter().map(str::to_owned).collect();
            row
        })
}

fn filter() -> impl Strategy<Value = ListFilter> {
    let words = Phase::ALL.map(|p| p.as_str().to_owned()).to_vec();
    let identity = prop_oneof![
        Just(None),
        Just(Some(Identity::Operator {
            name: "o".to_owned(),
            from: Default::default(),
        })),
        proptest::option::of(Just("a".to_owned())).prop_map(|agent_id| Some(Identity::Caller {
            token: "t1".to_owned(),
            agent_id,
            from: Default::default(),
        })),
    ];
    let word =
        |words: Vec<&'static str>| proptest::option::of(select(words).prop_map(str::to_owned));
    (
        identity,
        proptest::sample::subsequence(words, 0..4),
        word(vec!["a", "b"]),
        word(vec!["x", "y"]),
        proptest::option::of((0_i64..6).prop_map(WallTime)),
        proptest::option::of((0_i64..6).prop_map(WallTime)),
        1_u32..5,
    )
        .prop_map(
            |(identity, phases, agent_id, label, created_after, created_before, limit)| {
                ListFilter {
                    identity,
                    phases,
                    agent_id,
                    label,
                    created_after,
                    created_before,
                    limit,
                    before: None,
                }
            },
        )
}

/// What a list should show, by looking at every task.
fn model(tasks: &[TaskView], filter: &ListFilter) -> Vec<TaskView> {
    let mut hits: Vec<_> = tasks
        .iter()
        .filter(|t| {
            filter
                .identity
                .as_ref()
                .is_none_or(|i| i.may_see(&t.caller))
        })
        .filter(|t| filter.phases.is_empty() || filter.phases.iter().any(|p| p == t.phase.as_str()))
        .filter(|t| {
            filter
                .agent_id
                .as_ref()
                .is_none_or(|a| *a == t.caller.agent_id)
        })
        .filter(|t| {
            filter
                .label
                .as_ref()
                .is_none_or(|l| t.spec.labels.contains(l))
        })
        .filter(|t| filter.created_after.is_none_or(|at| t.created_at >= at))
        .filter(|t| filter.created_before.is_none_or(|at| t.created_at < at))
        .cloned()
        .collect();
    hits.sort_by_key(|t| std::cmp::Reverse((t.created_at, t.id)));
    hits
}

async fn pages(desk: &Desk, mut filter: ListFilter) -> Vec<TaskView> {
    let mut all = Vec::new();
    loop {
        let page = desk.journal.list(filter.clone()).await.unwrap();
        let Some(last) = page.last() else {
            return all;
        };
        assert!(page.len() <= filter.limit as usize);
        filter.before = Some((last.created_at, last.id));
        all.extend(page);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pages_show_every_task_once_in_order(
        mut tasks in proptest::collection::vec(task(), 0..25),
        filters in proptest::collection::vec(filter(), 8),
    ) {
        tasks.sort_by_key(|t| t.id);
        tasks.dedup_by_key(|t| t.id);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut desk = Desk::new().await;
            let mut batches = Vec::new();
            for row in &mut tasks {
                let event = accepted(row, None);
                batches.push(desk.batch(vec![event], Some(row)));
            }
            desk.journal.append(batches).await.unwrap();
            for filter in filters {
                let found = pages(&desk, filter.clone()).await;
                prop_assert_eq!(found, model(&tasks, &filter), "{:?}", filter);
            }
            Ok(())
        })?;
    }
}
