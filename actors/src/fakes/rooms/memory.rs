//! What the fake homeserver's side remembers of rooms. In: writes. Out: rows as they were written.

use super::FakeRooms;
use crate::id::{EventNumber, TaskId};
use crate::ports::{PortFuture, RoomMemory, RoomMemoryError, RoomRow, TakenCommand};

impl RoomMemory for FakeRooms {
    fn all(&self) -> PortFuture<'_, Result<Vec<(TaskId, RoomRow)>, RoomMemoryError>> {
        Box::pin(self.remember("rooms_memory.all", "", |home| {
            let rows = home.rows.iter();
            rows.map(|(task, row)| (*task, row.clone())).collect()
        }))
    }

    fn row(&self, task: TaskId) -> PortFuture<'_, Result<RoomRow, RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.row", &task.to_string(), |home| {
                home.rows.get(&task).cloned().unwrap_or_default()
            })
            .await
        })
    }

    fn save(
        &self,
        task: TaskId,
        row: RoomRow,
        _cursor: (String, EventNumber),
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.save", &task.to_string(), |home| {
                let kept = home.rows.entry(task).or_default();
                let heard = kept.heard.take();
                *kept = RoomRow { heard, ..row };
            })
            .await
        })
    }

    fn take(
        &self,
        task: TaskId,
        commands: Vec<TakenCommand>,
        heard: Option<String>,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.take", &task.to_string(), |home| {
                for command in commands {
                    let known = home
                        .commands
                        .iter()
                        .any(|(_, old, _)| old.event == command.event);
                    if !known {
                        home.commands.push((task, command, None));
                    }
                }
                if heard.is_some() {
                    home.rows.entry(task).or_default().heard = heard;
                }
            })
            .await
        })
    }

    fn open(&self, task: TaskId) -> PortFuture<'_, Result<Vec<TakenCommand>, RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.open", &task.to_string(), |home| {
                let open = home
                    .commands
                    .iter()
                    .filter(|(of, _, done)| *of == task && done.is_none());
                open.map(|(_, command, _)| command.clone()).collect()
            })
            .await
        })
    }

    fn begin(&self, event: String) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.begin", &event, |home| {
                for (_, command, _) in &mut home.commands {
                    command.begun |= command.event == event;
                }
            })
            .await
        })
    }

    fn done(&self, event: String, outcome: String) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.done", &event, |home| {
                for (_, command, done) in &mut home.commands {
                    if command.event == event {
                        *done = Some(outcome.clone());
                    }
                }
            })
            .await
        })
    }

    fn keep_archive(
        &self,
        task: TaskId,
        json: String,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.keep_archive", &task.to_string(), |home| {
                home.archives.insert(task, json);
            })
            .await
        })
    }

    fn archive(&self, task: TaskId) -> PortFuture<'_, Result<Option<String>, RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.archive", &task.to_string(), |home| {
                home.archives.get(&task).cloned()
            })
            .await
        })
    }

    fn forget(&self, task: TaskId) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(async move {
            self.remember("rooms_memory.forget", &task.to_string(), |home| {
                home.rows.remove(&task);
                home.commands.retain(|(of, _, _)| *of != task);
            })
            .await
        })
    }
}
