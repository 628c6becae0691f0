//! Signals of the stream: hints that make the machine read, and observations that are collected and journaled
//! at most twice a second. What the stream did not tell (Chargehand was dead, or the stream was cut) is caught up from
//! readings of the record.

use super::input::{Effect, Step};
use super::step::Machine;
use crate::event::{Event, Phase, Todo, ToolRun, Usage};
use crate::id::WallTime;
use crate::ports::{Activity, SessionReport, Signal};

/// Observations of one task are journaled at most this often, in milliseconds.
const FLUSH_MS: u64 = 500;
/// So long after a nudge the end of the run that it stopped may still be told, in milliseconds.
const ECHO_MS: u64 = 10_000;
/// Tools kept of one flush; more are counted in a remark.
const TOOLS_KEPT: usize = 20;
/// Begins the words for a run in whose tool it is.
const RUNS: &str = "runs ";
/// Begins the words for a run that its model provider makes wait.
const WAITS_FOR_PROVIDER: &str = "waits for the model provider";

/// Observations not yet journaled.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observations {
    tools: Vec<ToolRun>,
    tools_dropped: u32,
    files: Vec<String>,
    todos: Option<Vec<Todo>>,
    steps: Option<(u32, Usage)>,
    retry: Option<(u32, String)>,
    doing: Option<String>,
    /// Text flows: journaled also when nothing else changed.
    pulse: bool,
    due: Option<WallTime>,
}

impl Observations {
    /// When they are to be journaled.
    pub(super) const fn flush_at(&self) -> Option<WallTime> {
        self.due
    }

    /// Steps so far, of which the journal knows `known`.
    pub(super) fn steps_with(&self, known: u32) -> u32 {
        self.steps.map_or(known, |(steps, _)| steps)
    }

    fn touch(&mut self, now: WallTime) {
        self.due.get_or_insert(now.plus_ms(FLUSH_MS));
    }
}

impl Machine {
    pub(super) fn signal(&mut self, child: bool, signal: Signal, now: WallTime, out: &mut Step) {
        if is_work(&signal) {
            self.live.hearing.heard(now);
        }
        self.live.stirred |= !child;
        self.live.told = true;
        match signal {
            Signal::Busy => self.heard_busy(child, out),
            Signal::Idle | Signal::Deleted => {
                if !child {
                    self.live.deleted |= signal == Signal::Deleted;
                    self.read_by(now);
                }
            }
            Signal::Error { name, message } => {
                let ours = self.state.abort.is_some() || self.state.phase == Phase::Paused;
                if !child && !ours && !self.echoes_nudge(&name, now) {
                    self.live.hints.last_error = Some((name, message));
                    self.read_by(now.plus_ms(100));
                }
            }
            Signal::RequestAsked(_) | Signal::RequestClosed(_) => self.read_by(now),
            Signal::AssistantStarted => {
                if !child
                    && self
                        .state
                        .prompts
                        .iter()
                        .any(super::state::PromptRecord::is_open)
                {
                    self.read_by(now.plus_ms(50));
                }
            }
            Signal::Text { text, reasoning } => {
                if self.pulse_is_due(now) {
                    let doing = if reasoning { "thinks" } else { "writes" };
                    self.observe_doing(doing.to_owned(), now);
                    self.live.observed.pulse = true;
                }
                if !reasoning {
                    out.effects.push(Effect::AppendOutput { text });
                }
            }
            Signal::ToolStarted(tool) => self.observe_doing(runs(&tool), now),
            Signal::ToolFinished(tool) => self.observe_tool(tool, now, out),
            Signal::StepFinished { usage, reason } => self.observe_step(child, usage, &reason, now),
            Signal::FilesTouched(files) => {
                self.live.observed.touch(now);
                let known = &self.state.files_touched;
                let fresh = files.into_iter().filter(|file| !known.contains(file));
                self.live.observed.files.extend(fresh);
            }
            Signal::Todos(todos) => {
                self.live.observed.touch(now);
                self.live.observed.todos = Some(todos);
            }
            Signal::Retrying { attempt, message } => {
                self.observe_retry(attempt, message, now);
                // The record says until when, and the watchdogs judge it.
                self.read_by(now);
            }
        }
    }

    fn heard_busy(&mut self, child: bool, out: &mut Step) {
        self.live.verdict = None;
        if !child && self.is_watched_pause() {
            self.end_escaped_run(out);
        }
    }

    /// The end of the run that a nudge stopped, told late: no error of the run that goes on.
    fn echoes_nudge(&self, name: &str, now: WallTime) -> bool {
        let nudged = self.state.nudged_at;
        name == "MessageAbortedError" && nudged.is_some_and(|at| now.ms_since(at) < ECHO_MS)
    }

    /// A run that begins after its pause was an accepted prompt on its way: end it again.
    pub(super) fn end_escaped_run(&mut self, out: &mut Step) {
        if !self.live.aborting
            && let Some(session) = self.state.session.clone()
        {
            self.live.aborting = true;
            out.effects.push(Effect::Abort { session });
        }
    }

    fn observe_doing(&mut self, doing: String, now: WallTime) {
        self.live.observed.touch(now);
        self.live.observed.doing = Some(doing);
    }

    fn observe_retry(&mut self, attempt: u32, message: String, now: WallTime) {
        self.live.observed.touch(now);
        self.live.told_retry = Some((attempt, message.clone()));
        self.live.observed.retry = Some((attempt, message));
    }

    fn observe_tool(&mut self, tool: ToolRun, now: WallTime, out: &mut Step) {
        let mark = if tool.failed { "failed" } else { "done" };
        out.effects.push(Effect::AppendOutput {
            text: format!("\n[{mark}: {}]\n", named(&tool)),
        });
        self.observe_doing("thinks".to_owned(), now);
        if self.live.observed.tools.len() < TOOLS_KEPT {
            self.live.observed.tools.push(tool);
        } else {
            self.live.observed.tools_dropped += 1;
        }
    }

    fn observe_step(&mut self, child: bool, usage: Usage, reason: &str, now: WallTime) {
        // The engine's own totals were taken: a signal that comes late tells what they hold.
        if self.state.phase == Phase::Finishing {
            return;
        }
        self.live.observed.touch(now);
        let (steps, total) = self
            .live
            .observed
            .steps
            .unwrap_or((self.state.steps, self.state.usage));
        let total = Usage {
            input: total.input + usage.input,
            output: total.output + usage.output,
            reasoning: total.reasoning + usage.reasoning,
            cache_read: total.cache_read + usage.cache_read,
            cache_write: total.cache_write + usage.cache_write,
            cost: total.cost + usage.cost,
        };
        self.live.observed.steps = Some((steps + 1, total));
        // An answer without a proper finish may be the first of an endless loop.
        let unfinished = !child && reason == "unknown";
        let limit = self.step_limit();
        if unfinished || limit > 0 && steps + 1 >= limit {
            self.read_by(now);
        }
    }

    /// Catches up with a record during whose reading nothing was heard: a tool that began or ended while nobody listened
    /// is told by no signal until it ends. Steps are not caught up before the end: the signal of one that the record shows
    /// may still be on its way, and would count it again.
    pub(super) fn catch_up(&mut self, report: &SessionReport, now: WallTime) {
        if self.state.phase != Phase::Running || self.state.abort.is_some() {
            return;
        }
        match &report.activity {
            Activity::Idle => return,
            Activity::Retrying {
                attempt, message, ..
            } => {
                // Told once: while one sub-agent waits another may work, and tell what it does.
                let told = self.live.told_retry.as_ref();
                let is_told =
                    told.is_some_and(|(number, words)| number == attempt && words == message);
                if !is_told && self.state.doing != waits_for_provider(*attempt, message) {
                    self.observe_retry(*attempt, message.clone(), now);
                }
            }
            Activity::Busy => {
                self.live.told_retry = None;
                if let Some(doing) = self.missed_doing(report) {
                    self.observe_doing(doing, now);
                }
            }
        }
        // It is a sign of work when it is journaled: only what may have been done since the newest one that is known.
        let (todos, observed) = (&report.todos, &mut self.live.observed);
        let known = observed.todos.as_ref().unwrap_or(&self.state.todos);
        if report.newest_at > self.state.worked_at && todos != known {
            observed.touch(now);
            observed.todos = Some(todos.clone());
        }
    }

    /// What a working run does by its record, if that is not what is known.
    fn missed_doing(&self, report: &SessionReport) -> Option<String> {
        let known = self.live.observed.doing.as_ref();
        let known = known.unwrap_or(&self.state.doing);
        let running = &report.running_tools;
        match running.last() {
            Some(_) if running.iter().any(|tool| runs(tool) == *known) => None,
            Some(newest) => Some(runs(newest)),
            None => (known.starts_with(RUNS) || known.starts_with(WAITS_FOR_PROVIDER))
                .then(|| "thinks".to_owned()),
        }
    }

    /// Journals what was observed.
    pub(super) fn flush(&mut self, now: WallTime, out: &mut Step) {
        let seen = std::mem::take(&mut self.live.observed);
        if !seen.tools.is_empty() {
            self.emit(now, out, Event::ToolsFinished { tools: seen.tools });
        }
        if seen.tools_dropped > 0 {
            let message = format!(
                "{} more tool calls ended in that half second",
                seen.tools_dropped
            );
            self.emit(now, out, Event::Remark { message });
        }
        if !seen.files.is_empty() {
            self.emit(now, out, Event::FilesTouched { files: seen.files });
        }
        if let Some((steps, usage)) = seen.steps {
            self.emit(now, out, Event::StepFinished { steps, usage });
        }
        if let Some(todos) = seen.todos {
            self.emit(now, out, Event::TodosChanged { todos });
        }
        if let Some((attempt, message)) = seen.retry {
            self.emit(now, out, Event::ProviderRetry { attempt, message });
        } else if let Some(doing) = seen.doing {
            match self.state.phase {
                Phase::Running => {
                    if seen.pulse || doing != self.state.doing {
                        self.emit(now, out, Event::ActivityChanged { doing });
                    }
                }
                // The run can begin before its prompt is known to be accepted, and go on before an answer is.
                Phase::Starting | Phase::InputRequired => self.live.observed.doing = Some(doing),
                Phase::Queued
                | Phase::Paused
                | Phase::Finishing
                | Phase::Completed
                | Phase::Failed
                | Phase::Timeout
                | Phase::Cancelled => {}
            }
        }
    }

    /// What was heard before the task was known to run is journaled when it is; what was heard before a pause is over.
    pub(super) fn phase_changed(&mut self, now: WallTime) {
        match self.state.phase {
            Phase::Running => {
                if self.live.observed.doing.is_some() {
                    self.live.observed.touch(now);
                }
            }
            Phase::Starting | Phase::InputRequired => {}
            Phase::Queued
            | Phase::Paused
            | Phase::Finishing
            | Phase::Completed
            | Phase::Failed
            | Phase::Timeout
            | Phase::Cancelled => self.live.observed.doing = None,
        }
    }
}

/// What a run does while a tool runs.
fn runs(tool: &ToolRun) -> String {
    format!("{RUNS}{}", named(tool))
}

/// What a run does that its model provider makes wait.
pub(super) fn waits_for_provider(attempt: u32, message: &str) -> String {
    format!("{WAITS_FOR_PROVIDER} (retry {attempt}): {message}")
}

fn named(tool: &ToolRun) -> String {
    if tool.title.is_empty() {
        tool.tool.clone()
    } else {
        format!("{}: {}", tool.tool, tool.title)
    }
}

/// Whether a signal shows that the run does something. That it is called busy shows nothing.
const fn is_work(signal: &Signal) -> bool {
    match signal {
        Signal::Retrying { .. }
        | Signal::Text { .. }
        | Signal::ToolStarted(_)
        | Signal::ToolFinished(_)
        | Signal::StepFinished { .. }
        | Signal::FilesTouched(_)
        | Signal::Todos(_)
        | Signal::RequestAsked(_)
        | Signal::RequestClosed(_) => true,
        Signal::Busy
        | Signal::Idle
        | Signal::Error { .. }
        | Signal::AssistantStarted
        | Signal::Deleted => false,
    }
}
