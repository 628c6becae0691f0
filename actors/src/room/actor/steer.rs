//! The half of the room actor that hears and acts.
//!
//! In: news of the stream, commands that were taken down. Out: commands to the tree, answers in the room, who watches. What
//! fails backs off for itself: an answer that cannot be sent holds back no command, and none of both what is heard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::command::ControlSignal;
use crate::jobs::JobEnd;
use crate::ports::{RoomError, RoomMemoryError, TakenCommand};

use super::super::act::{Reply, answer, carry_out};
use super::super::command::Wish;
use super::super::hear::{Taken, hear, tell_attendance};
use super::{DEADLINE, Doing, RoomMsg, RoomState};

impl RoomState {
    // ---- hearing ----

    pub(super) fn listen(&mut self) {
        if self.hearing || self.resting {
            return;
        }
        if let Some(upto) = self.news.take() {
            self.hearing = true;
            self.listened = self.shut;
            let job = hear(Arc::clone(&self.wires), self.task, upto);
            self.jobs.start(DEADLINE, job, |_, end| RoomMsg::Heard(end));
        }
    }

    pub(super) fn heard(&mut self, end: JobEnd<Result<bool, RoomError>>) {
        self.hearing = false;
        // What was taken before it failed is done all the same.
        self.look = true;
        match end.or_else(RoomError::Transient) {
            Ok(people_changed) => {
                self.ear_failures = 0;
                self.watch |= people_changed;
            }
            Err(error) => {
                // Without a place: the next news of the stream brings one.
                self.news.get_or_insert(None);
                self.listened = false;
                self.ear_failures += 1;
                let wait = self.failed(&error, self.ear_failures);
                self.resting = true;
                self.jobs.after(wait, RoomMsg::Again);
            }
        }
    }

    /// How long to wait after the `n`-th failure in a row.
    fn failed(&self, error: &RoomError, n: u32) -> Duration {
        self.wires.metrics.outward_failed("rooms", true);
        tracing::debug!(task = %self.task, %error, "something of the task's room waits; trying again");
        self.wait_after(error, n)
    }

    // ---- who watches ----

    pub(super) fn watch(&mut self) {
        if self.watch && !self.watching {
            self.watch = false;
            self.watching = true;
            let job = tell_attendance(Arc::clone(&self.wires), self.task);
            self.jobs
                .start(DEADLINE, job, |_, end| RoomMsg::Watched(end));
        }
    }

    pub(super) fn watched(&mut self, end: JobEnd<Result<(), RoomError>>) {
        match end.or_else(RoomError::Transient) {
            Ok(()) => {
                self.watching = false;
                self.watch_failures = 0;
            }
            Err(error) => {
                self.watch = true;
                self.watch_failures += 1;
                let wait = self.failed(&error, self.watch_failures);
                self.jobs.after(wait, RoomMsg::WatchAgain);
            }
        }
    }

    // ---- acting ----

    pub(super) fn is_idle(&self) -> bool {
        !self.hearing
            && self.news.is_none()
            && !self.look
            && !self.looking
            && self.queue.is_empty()
            && self.doing.is_empty()
    }

    pub(super) fn act(&mut self) {
        if self.look && !self.looking {
            self.look = false;
            self.looking = true;
            let memory = self.wires.ports.rooms.memory();
            let task = self.task;
            let job = async move { memory.open(task).await };
            self.jobs.start(DEADLINE, job, |_, end| RoomMsg::Open(end));
        }
        let mut later = VecDeque::new();
        while let Some((command, at_once)) = self.queue.pop_front() {
            if at_once || !self.is_busy() {
                self.begin(command, at_once);
            } else {
                later.push_back((command, at_once));
            }
        }
        self.queue = later;
    }

    /// Something is being done that others wait for. What is only to be answered holds nobody up.
    fn is_busy(&self) -> bool {
        let mut doing = self.doing.values();
        doing.any(|doing| doing.in_order && doing.reply.is_none())
    }

    fn begin(&mut self, command: TakenCommand, at_once: bool) {
        let event = command.event.clone();
        let doing = Doing {
            command,
            in_order: !at_once,
            failures: 0,
            reply: None,
        };
        self.doing.insert(event.clone(), doing);
        self.go_on(event);
    }

    pub(super) fn open(&mut self, end: JobEnd<Result<Vec<TakenCommand>, RoomMemoryError>>) {
        match end.or_else(RoomMemoryError) {
            Ok(open) => {
                self.looking = false;
                self.look_failures = 0;
                for command in open {
                    let known = self.doing.contains_key(&command.event)
                        || self.answered.contains(&command.event)
                        || self.queue.iter().any(|(old, _)| old.event == command.event);
                    if !known {
                        let at_once = is_cancel(&command);
                        self.queue.push_back((command, at_once));
                    }
                }
            }
            Err(error) => {
                self.look = true;
                self.look_failures += 1;
                let wait = self.failed(&error.into(), self.look_failures);
                self.jobs.after(wait, RoomMsg::LookAgain);
            }
        }
    }

    /// Does it, or answers it when it is done.
    pub(super) fn go_on(&mut self, event: String) {
        let Some(doing) = self.doing.get(&event) else {
            return;
        };
        let (wires, task) = (Arc::clone(&self.wires), self.task);
        let command = doing.command.clone();
        match &doing.reply {
            None => {
                let job = carry_out(wires, task, command);
                self.jobs
                    .start(DEADLINE, job, move |_, end| RoomMsg::CarriedOut(event, end));
            }
            Some(reply) => {
                let job = answer(wires, task, command, Arc::clone(reply));
                self.jobs
                    .start(DEADLINE, job, move |_, end| RoomMsg::Answered(event, end));
            }
        }
    }

    pub(super) fn carried_out(&mut self, event: String, end: JobEnd<Result<Reply, RoomError>>) {
        match end.or_else(RoomError::Transient) {
            Ok(reply) => {
                if let Some(doing) = self.doing.get_mut(&event) {
                    doing.failures = 0;
                    doing.reply = Some(Arc::new(reply));
                }
                // Its effect is shown soon.
                self.dirty = true;
                self.go_on(event);
            }
            Err(error) => {
                if let Some(doing) = self.doing.get_mut(&event) {
                    // It may have been done all the same: the next try looks first.
                    doing.command.begun = true;
                }
                self.retry(event, &error);
            }
        }
    }

    pub(super) fn was_answered(&mut self, event: String, end: JobEnd<Result<(), RoomError>>) {
        match end.or_else(RoomError::Transient) {
            Ok(()) => {
                self.doing.remove(&event);
                self.answered.insert(event);
            }
            Err(error) => self.retry(event, &error),
        }
    }

    fn retry(&mut self, event: String, error: &RoomError) {
        let Some(doing) = self.doing.get_mut(&event) else {
            return;
        };
        doing.failures += 1;
        let failures = doing.failures;
        let wait = self.failed(error, failures);
        self.jobs.after(wait, RoomMsg::Retry(event));
    }
}

/// Nothing that was asked before may delay it.
fn is_cancel(command: &TakenCommand) -> bool {
    let taken: Option<Taken> = serde_json::from_str(&command.wish).ok();
    taken.is_some_and(|taken| {
        matches!(
            taken.wish,
            Wish::Control {
                signal: ControlSignal::Cancel,
                ..
            }
        )
    })
}
