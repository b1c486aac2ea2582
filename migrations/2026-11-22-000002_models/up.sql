-- The models' tables. References are ids that may dangle: rows of different devices arrive in any order.
-- `id` is unique beside SQLite's own row number: time-ordered ids then insert three times faster than as the key.

CREATE TABLE device (
    id BLOB NOT NULL UNIQUE,
    owner BLOB NOT NULL,
    version BIGINT NOT NULL,
    name TEXT,
    os TEXT,
    os_version TEXT,
    hardware TEXT,
    app_version TEXT,
    extra BLOB
);
CREATE INDEX device_stream ON device (owner, version);

CREATE TABLE volume (
    id BLOB NOT NULL UNIQUE,
    owner BLOB NOT NULL,
    version BIGINT NOT NULL,
    device BLOB,
    fingerprint TEXT,
    name TEXT,
    mount_point TEXT,
    file_system TEXT,
    capacity BIGINT,
    available BIGINT,
    removable BOOLEAN,
    extra BLOB
);
CREATE INDEX volume_stream ON volume (owner, version);

CREATE TABLE location (
    id BLOB NOT NULL UNIQUE,
    owner BLOB NOT NULL,
    version BIGINT NOT NULL,
    volume BLOB,
    root BLOB,
    name TEXT,
    path TEXT,
    entry_count BIGINT,
    byte_size BIGINT,
    last_scan_at BIGINT,
    raw_path BLOB,
    extra BLOB
);
CREATE INDEX location_stream ON location (owner, version);

CREATE TABLE entry (
    id BLOB NOT NULL UNIQUE,
    owner BLOB NOT NULL,
    version BIGINT NOT NULL,
    location BLOB,
    parent BLOB,
    name TEXT,
    kind BIGINT,
    extension TEXT,
    size BIGINT,
    created_at BIGINT,
    modified_at BIGINT,
    mode BIGINT,
    inode BIGINT,
    content_hash BLOB,
    raw_name BLOB,
    extra BLOB
);
CREATE INDEX entry_stream ON entry (owner, version);

CREATE TABLE user_metadata_device (
    id BLOB NOT NULL UNIQUE,
    owner BLOB NOT NULL,
    version BIGINT NOT NULL,
    target BLOB,
    last_opened_at BIGINT,
    open_count BIGINT,
    extra BLOB
);
CREATE INDEX user_metadata_device_stream ON user_metadata_device (owner, version);

CREATE TABLE tag (
    id BLOB NOT NULL UNIQUE,
    name TEXT,
    namespace TEXT,
    color TEXT,
    icon TEXT,
    description TEXT,
    aliases TEXT,
    hidden BOOLEAN,
    extra BLOB,
    stamps BLOB NOT NULL,
    alive BOOLEAN NOT NULL
);

CREATE TABLE tag_relationship (
    id BLOB NOT NULL UNIQUE,
    parent BLOB,
    child BLOB,
    extra BLOB,
    stamps BLOB NOT NULL,
    alive BOOLEAN NOT NULL
);

CREATE TABLE tag_assignment (
    id BLOB NOT NULL UNIQUE,
    tag BLOB,
    entry BLOB,
    content_hash BLOB,
    extra BLOB,
    stamps BLOB NOT NULL,
    alive BOOLEAN NOT NULL
);

CREATE TABLE collection (
    id BLOB NOT NULL UNIQUE,
    name TEXT,
    description TEXT,
    color TEXT,
    extra BLOB,
    stamps BLOB NOT NULL,
    alive BOOLEAN NOT NULL
);

CREATE TABLE collection_entry (
    id BLOB NOT NULL UNIQUE,
    collection BLOB,
    entry BLOB,
    position DOUBLE,
    extra BLOB,
    stamps BLOB NOT NULL,
    alive BOOLEAN NOT NULL
);

CREATE TABLE user_metadata (
    id BLOB NOT NULL UNIQUE,
    target BLOB,
    notes TEXT,
    favorite BOOLEAN,
    hidden BOOLEAN,
    rating BIGINT,
    custom TEXT,
    extra BLOB,
    stamps BLOB NOT NULL,
    alive BOOLEAN NOT NULL
);

CREATE INDEX entry_parent ON entry (parent);
CREATE INDEX entry_content ON entry (content_hash) WHERE content_hash IS NOT NULL;
CREATE INDEX tag_assignment_tag ON tag_assignment (tag);
CREATE INDEX tag_assignment_entry ON tag_assignment (entry);
CREATE INDEX tag_assignment_content ON tag_assignment (content_hash) WHERE content_hash IS NOT NULL;
CREATE INDEX tag_relationship_parent ON tag_relationship (parent);
CREATE INDEX collection_entry_collection ON collection_entry (collection);
CREATE INDEX collection_entry_entry ON collection_entry (entry);
CREATE INDEX user_metadata_target ON user_metadata (target);
