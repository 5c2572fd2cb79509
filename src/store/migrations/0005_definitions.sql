-- The history of VMs' definitions.

-- How far the history of each VM goes. A number is never given twice, also when its version is gone.
CREATE TABLE definition_head (
    vm     BLOB NOT NULL PRIMARY KEY CHECK (length(vm) = 16),
    number INTEGER NOT NULL,
    -- Of the newest version's XML.
    hash   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The XML stands last: a listing does not touch the pages that it overflows to.
CREATE TABLE definition (
    seq       INTEGER PRIMARY KEY,
    vm        BLOB NOT NULL REFERENCES definition_head (vm) ON DELETE CASCADE,
    number    INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    -- Whose work it was; null for what was done outside of Vapor.
    principal TEXT,
    task      BLOB,
    operation TEXT,
    hash      INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    xml       TEXT NOT NULL,
    UNIQUE (vm, number)
) STRICT;
