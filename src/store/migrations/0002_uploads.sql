-- Uploads under way. The id is that of the task that each upload is.

CREATE TABLE upload (
    id         BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    pool       TEXT NOT NULL,
    volume     TEXT NOT NULL,
    purpose    TEXT NOT NULL CHECK (purpose IN ('volume', 'iso')),
    metadata   TEXT NOT NULL,
    length     INTEGER NOT NULL,
    -- What is acknowledged: so many bytes are in the volume, or in head.
    position   INTEGER NOT NULL,
    -- First bytes that are not in the volume yet, because they do not tell enough.
    head       BLOB NOT NULL,
    -- The state of the SHA-256 over what is acknowledged.
    digest     BLOB NOT NULL,
    format     TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
