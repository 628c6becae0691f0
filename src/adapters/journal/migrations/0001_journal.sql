-- The journal: events in one order, the newest row of each task, idempotency keys, cursors of readers.
-- Plain SQL. For PostgreSQL read INTEGER as BIGINT; everything else stays as it is.

-- One row a task, as of its event last_event; written in the same transaction as its events.
CREATE TABLE tasks (
    id              TEXT    NOT NULL PRIMARY KEY,
    token           TEXT    NOT NULL,
    agent_id        TEXT    NOT NULL,
    phase           TEXT    NOT NULL,
    -- 1 when nothing can change the phase any more.
    final           INTEGER NOT NULL,
    -- Number of the newest attempt; 0 before the first.
    attempt         INTEGER NOT NULL,
    -- The newest attempt whose removal from its engine is recorded; 0 for none.
    removed         INTEGER NOT NULL DEFAULT 0,
    -- Milliseconds since 1970, as all times here.
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    description     TEXT    NOT NULL,
    last_event      INTEGER NOT NULL,
    -- The TaskView, as JSON.
    view            TEXT    NOT NULL
);

-- What a start must look at: tasks that are not final, or whose attempt may still own something.
CREATE INDEX tasks_live ON tasks (created_at, id) WHERE final = 0 OR removed < attempt;

-- Lists, newest first, for every combination of token, agent and phase.
CREATE INDEX tasks_time ON tasks (created_at, id);
CREATE INDEX tasks_phase ON tasks (phase, created_at, id);
CREATE INDEX tasks_token ON tasks (token, created_at, id);
CREATE INDEX tasks_token_phase ON tasks (token, phase, created_at, id);
CREATE INDEX tasks_agent ON tasks (agent_id, created_at, id);
CREATE INDEX tasks_agent_phase ON tasks (agent_id, phase, created_at, id);
CREATE INDEX tasks_caller ON tasks (token, agent_id, created_at, id);
CREATE INDEX tasks_caller_phase ON tasks (token, agent_id, phase, created_at, id);

-- created_at is repeated here so that a list by label needs no sorting.
CREATE TABLE task_labels (
    label           TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    task            TEXT    NOT NULL REFERENCES tasks (id),
    PRIMARY KEY (label, created_at, task)
);

CREATE TABLE events (
    -- Given by the journal actor: without gaps, from 1.
    number          INTEGER NOT NULL PRIMARY KEY,
    at              INTEGER NOT NULL,
    -- Absent for events of the whole instance.
    task            TEXT    REFERENCES tasks (id),
    type            TEXT    NOT NULL,
    -- Version of the payload's meaning.
    version         INTEGER NOT NULL,
    -- The Event, as JSON.
    payload         TEXT    NOT NULL
);

CREATE INDEX events_task ON events (task, number);

-- The newest batches, to recognise one that is appended again.
CREATE TABLE batches (
    number          INTEGER NOT NULL PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE
);

-- Idempotency keys; a newer use of the same key replaces the older.
CREATE TABLE keys (
    token           TEXT    NOT NULL,
    agent_id        TEXT    NOT NULL,
    key             TEXT    NOT NULL,
    fingerprint     TEXT    NOT NULL,
    task            TEXT    NOT NULL REFERENCES tasks (id),
    at              INTEGER NOT NULL,
    PRIMARY KEY (token, agent_id, key)
);

CREATE INDEX keys_at ON keys (at);

-- How far each reader outside has come.
CREATE TABLE cursors (
    name            TEXT    NOT NULL PRIMARY KEY,
    event           INTEGER NOT NULL
);

-- One row, written by every health check to see that writing works.
CREATE TABLE health (
    id              INTEGER NOT NULL PRIMARY KEY,
    checks          INTEGER NOT NULL
);
