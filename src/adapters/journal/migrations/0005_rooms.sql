-- Rooms: what a room actor must not forget, and the commands of people, each once.

CREATE TABLE rooms (
    task            TEXT    NOT NULL PRIMARY KEY,
    -- The room's id, once it is known.
    room            TEXT,
    -- Since when nothing more is said in it.
    closed          INTEGER,
    -- A place in the homeserver's stream: every command before it is in room_commands.
    heard           TEXT,
    -- The room actor's record, as JSON.
    record          TEXT    NOT NULL DEFAULT ''
);

CREATE TABLE room_commands (
    -- In the order in which they were taken.
    number          INTEGER NOT NULL PRIMARY KEY,
    -- The Matrix event: an event is taken once.
    event           TEXT    NOT NULL UNIQUE,
    task            TEXT    NOT NULL,
    sender          TEXT    NOT NULL,
    wish            TEXT    NOT NULL,
    -- 0 taken, 1 begun, 2 done.
    state           INTEGER NOT NULL DEFAULT 0,
    outcome         TEXT
);

-- Conversations that were archived: kept as long as their task.
CREATE TABLE room_archives (
    task            TEXT    NOT NULL PRIMARY KEY,
    conversation    TEXT    NOT NULL
);

CREATE INDEX room_commands_open ON room_commands (task, number) WHERE state < 2;
CREATE INDEX room_commands_task ON room_commands (task);
