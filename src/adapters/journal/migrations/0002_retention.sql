-- Retention: what ended when, what was removed of it, what is being deleted; numbers that are never given again.

ALTER TABLE tasks ADD COLUMN ended_at INTEGER;
-- When its files were removed.
ALTER TABLE tasks ADD COLUMN cleared_at INTEGER;
-- 1 while its events are being deleted: no read finds it any more.
ALTER TABLE tasks ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;

UPDATE tasks SET ended_at = updated_at WHERE final = 1;

-- What is due to be cleared or deleted, the longest ended first.
CREATE INDEX tasks_ended ON tasks (ended_at, id) WHERE final = 1;
CREATE INDEX tasks_files ON tasks (ended_at, id) WHERE final = 1 AND attempt > 0 AND cleared_at IS NULL;
CREATE INDEX tasks_forgotten ON tasks (id) WHERE forgotten = 1;

-- For the deletion of a task: who refers to it.
CREATE INDEX task_labels_task ON task_labels (task);
CREATE INDEX keys_task ON keys (task);

-- The highest number among events that are not there any more. One row.
CREATE TABLE high_water (
    id              INTEGER NOT NULL PRIMARY KEY,
    event           INTEGER NOT NULL
);

INSERT INTO high_water (id, event) VALUES (1, 0);
