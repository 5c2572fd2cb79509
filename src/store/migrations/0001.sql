-- Times are nanoseconds since 1970 in UTC. UUIDs are 16-byte blobs. JSON is text.

CREATE TABLE task (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    kind         TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN
                     ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    subject_name TEXT NOT NULL,
    principal    TEXT NOT NULL,
    request_id   TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    finished_at  INTEGER,
    progress     TEXT NOT NULL,
    cancellable  INTEGER NOT NULL,
    parent       BLOB,
    result       TEXT,
    error        TEXT
) STRICT;

-- Unfinished tasks are few, and asked for at every start.
CREATE INDEX task_unfinished ON task (seq) WHERE status IN ('queued', 'running');
CREATE INDEX task_subject ON task (subject_type, subject_id, seq);
CREATE INDEX task_finished_at ON task (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE task_step (
    task   INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    seq    INTEGER NOT NULL,
    action TEXT NOT NULL,
    undo   TEXT NOT NULL,
    state  TEXT NOT NULL CHECK (state IN ('intended', 'done', 'undone')),
    PRIMARY KEY (task, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_log (
    task    INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (task, seq)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: a number is never given twice, even after every event has been pruned.
CREATE TABLE event (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    time         INTEGER NOT NULL,
    kind         TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    subject_name TEXT NOT NULL,
    principal    TEXT,
    task         BLOB,
    data         TEXT NOT NULL
) STRICT;

CREATE INDEX event_subject ON event (subject_type, subject_id, seq);

CREATE TABLE idempotency (
    principal   TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    task        INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (principal, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_task ON idempotency (task);
CREATE INDEX idempotency_created_at ON idempotency (created_at);

-- What Vapor keeps of a VM between two starts; libvirt keeps the rest.
CREATE TABLE vm (
    uuid       BLOB NOT NULL PRIMARY KEY CHECK (length(uuid) = 16),
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    hash       INTEGER NOT NULL,
    runtime    TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE health (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    checked_at INTEGER NOT NULL
) STRICT;
INSERT INTO health (id, checked_at) VALUES (1, 0);
