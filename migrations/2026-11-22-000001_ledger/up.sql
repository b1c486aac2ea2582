-- What a peer keeps beside the models' own tables.
CREATE TABLE setting (
    key TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE statement (
    id BLOB NOT NULL PRIMARY KEY,
    bytes BLOB NOT NULL,
    signature BLOB NOT NULL
);

CREATE TABLE stream (
    kind INTEGER NOT NULL,
    origin BLOB NOT NULL,
    watermark BIGINT NOT NULL DEFAULT 0,
    floor BIGINT NOT NULL DEFAULT 0,
    clean BIGINT,
    PRIMARY KEY (kind, origin)
) WITHOUT ROWID;

CREATE TABLE beacon (
    member BLOB NOT NULL,
    is_whole BOOLEAN NOT NULL,
    bytes BLOB NOT NULL,
    signature BLOB NOT NULL,
    heard_at_ms BIGINT NOT NULL,
    PRIMARY KEY (member, is_whole)
);

CREATE TABLE log (
    origin BLOB NOT NULL,
    seq BIGINT NOT NULL,
    ends_commit BOOLEAN NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (origin, seq)
);

CREATE TABLE tombstone (
    model INTEGER NOT NULL,
    id BLOB NOT NULL,
    owner BLOB NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (model, id)
);
CREATE INDEX tombstone_stream ON tombstone (owner, version);

CREATE TABLE conflict (
    model INTEGER NOT NULL,
    record BLOB NOT NULL,
    field INTEGER NOT NULL,
    hlc BLOB NOT NULL,
    deleted BOOLEAN NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (model, record, field, hlc)
);

CREATE TABLE parked (
    origin BLOB NOT NULL,
    seq BIGINT NOT NULL,
    hlc BLOB NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (origin, seq)
);

CREATE TABLE parked_item (
    model INTEGER NOT NULL,
    id BLOB NOT NULL,
    origin BLOB NOT NULL,
    due_at_ms BIGINT NOT NULL,
    item BLOB NOT NULL,
    PRIMARY KEY (model, id)
);
CREATE INDEX parked_item_due ON parked_item (due_at_ms);

CREATE TABLE unknown_owned (
    model INTEGER NOT NULL,
    id BLOB NOT NULL,
    owner BLOB NOT NULL,
    version BIGINT NOT NULL,
    extra BLOB,
    PRIMARY KEY (model, id)
);
CREATE INDEX unknown_owned_stream ON unknown_owned (owner, version);

CREATE TABLE unknown_shared (
    model INTEGER NOT NULL,
    id BLOB NOT NULL,
    extra BLOB,
    stamps BLOB NOT NULL,
    alive BOOLEAN NOT NULL,
    PRIMARY KEY (model, id)
);

CREATE TABLE retry (
    peer BLOB NOT NULL,
    kind INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due_at_ms BIGINT NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (peer, kind)
);

CREATE TABLE dead_letter (
    peer BLOB NOT NULL,
    kind INTEGER NOT NULL,
    through BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (peer, kind)
);

CREATE TABLE ticket (
    id BLOB NOT NULL PRIMARY KEY,
    secret BLOB NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    used_by BLOB
);
