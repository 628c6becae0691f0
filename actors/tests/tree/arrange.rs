//! What a simulated history is made of: settings, troubles at the ports, tasks and the scripts of their workers.
//!
//! In: a random generator. Out: a world with its troubles, and submits.

use std::time::Duration;

use chargehand_actors::command::{PermissionAction, PermissionRule, Submit};
use chargehand_actors::fakes::engine::{LagRange, SignalRates};
use chargehand_actors::fakes::{OutwardMode, Random, Rates, World};
use chargehand_actors::id::EngineName;
use chargehand_actors::tree::CallerLimits;

/// The agents of the simulation; all have the same token.
pub(crate) const AGENTS: [&str; 3] = ["a", "b", "c"];

/// Settings and troubles of a history.
pub(crate) fn arrange(random: &mut Random, world: &mut World) {
    let settings = &mut world.settings;
    settings.max_running = u32::try_from(random.between(1, 4)).unwrap();
    settings.max_running_per_caller = u32::try_from(random.between(1, 3)).unwrap();
    settings.max_queued = u32::try_from(random.between(2, 30)).unwrap();
    if random.chance(300) {
        let limits = CallerLimits {
            running: Some(u32::try_from(random.between(1, 2)).unwrap()),
            queued: Some(u32::try_from(random.between(1, 10)).unwrap()),
        };
        settings.caller_limits.insert("local".to_owned(), limits);
    }
    if random.chance(300) {
        let seconds = Duration::from_secs(random.between(2, 60));
        settings.silence_warn = seconds;
        settings.silence_nudge = seconds * 2;
        settings.silence_fail = seconds * 4;
    }
    if random.chance(200) {
        settings.max_steps = u32::try_from(random.between(1, 6)).unwrap();
    }
    if random.chance(300) {
        settings.keep_files = Duration::from_secs(random.between(1, 300));
        settings.idempotency_keep = Duration::from_secs(random.between(1, 300));
        settings.keep_tasks = Duration::from_secs(random.between(1, 600));
    }
    let ports: [&dyn Fn(OutwardMode); 3] = [
        &|mode| world.memory.set(mode),
        &|mode| world.rooms.set(mode),
        &|mode| world.notices.set(mode),
    ];
    for set in ports {
        set(match random.below(6) {
            0 => OutwardMode::Works,
            1 => OutwardMode::Fails,
            2 => OutwardMode::Hangs,
            3 => OutwardMode::Panics,
            _ => OutwardMode::Off,
        });
    }
    world.trouble.set_rates(rates(random));
    let signals = signal_rates(random);
    let cold = (200, if random.chance(200) { 17_000 } else { 700 });
    for engine in [&world.engine, &world.freezer] {
        engine.set_signals(signals);
        engine.set_lag(LagRange {
            cold,
            warm: (2, 30),
        });
    }
    if random.chance(60) {
        world.freezer.set_dead(true);
    }
}

fn signal_rates(random: &mut Random) -> SignalRates {
    let mut rate = |most: u64| u32::try_from(random.below(most + 1)).unwrap();
    SignalRates {
        missing: rate(300),
        repeated: rate(200),
        late: rate(200),
        lies: rate(100),
        torn: rate(100),
        breaks: rate(10),
    }
}

fn rates(random: &mut Random) -> Vec<(&'static str, Rates)> {
    let mut rate = |most: u64| u32::try_from(random.below(most + 1)).unwrap();
    let engine = Rates {
        fail_before: rate(60),
        fail_after: rate(60),
        hang_before: rate(10),
        hang_after: rate(10),
        slow: rate(60),
        stale: rate(60),
    };
    let journal = Rates {
        fail_before: rate(2),
        fail_after: rate(2),
        hang_before: rate(3),
        hang_after: rate(3),
        slow: rate(10),
        stale: rate(10),
    };
    let calm = random.chance(300);
    let rest = if calm { Rates::default() } else { engine };
    vec![("journal.", journal), ("", rest)]
}

/// What a worker is told to do.
fn script(random: &mut Random) -> String {
    let mut words = Vec::new();
    if random.chance(100) {
        words.push(format!("cold {}", random.between(1, 17_000)));
    }
    for _ in 0..random.between(1, 4) {
        words.push(match random.below(40) {
            0..22 => format!("work {}", random.between(5, 4_000)),
            22..28 => format!("say {}", random.between(5, 500)),
            28..32 => "ask bash".to_owned(),
            32..34 => "question".to_owned(),
            34 => "retry 3000".to_owned(),
            35 => "die".to_owned(),
            36 => "hang".to_owned(),
            37 => "error APIError".to_owned(),
            38 => "loop".to_owned(),
            _ => "reject".to_owned(),
        });
    }
    words.join("; ")
}

/// A new task, or the repeat of an earlier one that had a key.
pub(crate) fn submit(random: &mut Random, told: &[Submit]) -> Submit {
    let known: Vec<&Submit> = told
        .iter()
        .filter(|submit| submit.idempotency_key.is_some())
        .collect();
    if !known.is_empty() && random.chance(200) {
        return (*random.pick(&known)).clone();
    }
    let mut submit = World::task(&script(random));
    let agent: &&str = random.pick(&AGENTS);
    submit.caller = World::caller(agent);
    submit.spec.attended = random.chance(300);
    if random.chance(300) {
        let actions = [
            PermissionAction::Allow,
            PermissionAction::Ask,
            PermissionAction::Deny,
        ];
        let rule = PermissionRule::parse("bash", *random.pick(&actions));
        submit.spec.permissions.extend(rule);
    }
    if random.chance(200) {
        submit.spec.engine = EngineName::new("frozen");
    }
    if random.chance(100) {
        submit.spec.timeout_ms = random.between(500, 5_000);
    }
    if random.chance(400) {
        submit.idempotency_key = Some(format!("key-{}", random.below(1_000)));
    }
    submit
}
