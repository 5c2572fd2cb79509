-- The library of ISO images: what is known of a volume that libvirt does not keep.
CREATE TABLE iso (
    id              BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name            TEXT NOT NULL UNIQUE,
    description     TEXT NOT NULL,
    pool            TEXT NOT NULL,
    volume          TEXT NOT NULL,
    size_bytes      INTEGER NOT NULL,
    os_variant      TEXT,
    detected_os     TEXT,
    header          TEXT NOT NULL,
    checksum_status TEXT NOT NULL CHECK (checksum_status IN ('pending', 'done', 'failed')),
    sha256          TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    generation      INTEGER NOT NULL,
    UNIQUE (pool, volume)
) STRICT, WITHOUT ROWID;
