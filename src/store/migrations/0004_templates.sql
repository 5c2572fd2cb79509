-- Templates: what VMs are made from. Settings are a request's body without secrets; disks name volumes.
CREATE TABLE template (
    id          BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name        TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    settings    TEXT NOT NULL,
    disks       TEXT NOT NULL,
    min_memory  INTEGER,
    min_vcpus   INTEGER,
    min_disk    INTEGER,
    source_vm   TEXT,
    owner       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    generation  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
