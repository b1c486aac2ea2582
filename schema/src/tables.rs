//! The diesel tables of what a peer keeps beside the models' own tables. None of it is replicated as such.

diesel::table! {
    /// Local settings: the library, the clock, names.
    setting (key) {
        key -> Text,
        value -> Binary,
    }
}

diesel::table! {
    /// Membership statements as they were signed.
    statement (id) {
        id -> Binary,
        bytes -> Binary,
        signature -> Binary,
    }
}

diesel::table! {
    /// Per stream how far it is applied, below which number entries may be lacking, and up to which number nothing is
    /// held that was deleted.
    stream (kind, origin) {
        kind -> Integer,
        origin -> Binary,
        watermark -> BigInt,
        floor -> BigInt,
        clean -> Nullable<BigInt>,
    }
}

diesel::table! {
    /// The newest beacon of each member: what it has acknowledged.
    beacon (member, is_whole) {
        member -> Binary,
        is_whole -> Bool,
        bytes -> Binary,
        signature -> Binary,
        heard_at_ms -> BigInt,
    }
}

diesel::table! {
    /// The peer log: shared changes that some member may still lack.
    log (origin, seq) {
        origin -> Binary,
        seq -> BigInt,
        ends_commit -> Bool,
        entry -> Binary,
    }
}

diesel::table! {
    /// What is left of deleted device-owned rows until every member has the deletion.
    tombstone (model, id) {
        model -> Integer,
        id -> Binary,
        owner -> Binary,
        version -> BigInt,
    }
}

diesel::table! {
    /// Values that lost without having been seen, and edits of deleted records: derived from the rows' stamps.
    conflict (model, record, field, hlc) {
        model -> Integer,
        record -> Binary,
        field -> Integer,
        hlc -> Binary,
        deleted -> Bool,
        value -> Binary,
    }
}

diesel::table! {
    /// Deleted shared records that still have their fields.
    remains (model, record) {
        model -> Integer,
        record -> Binary,
        deleted_at_ms -> BigInt,
    }
}

diesel::table! {
    /// Shared changes with a stamp from too far in the future, and what follows them in their streams.
    parked (origin, seq) {
        origin -> Binary,
        seq -> BigInt,
        hlc -> Binary,
        entry -> Binary,
    }
}

diesel::table! {
    /// Snapshot items with a stamp from too far in the future.
    parked_item (model, id) {
        model -> Integer,
        id -> Binary,
        origin -> Binary,
        due_at_ms -> BigInt,
        item -> Binary,
    }
}

diesel::table! {
    /// Device-owned rows of models that this version does not know.
    unknown_owned (model, id) {
        model -> Integer,
        id -> Binary,
        owner -> Binary,
        version -> BigInt,
        extra -> Nullable<Binary>,
    }
}

diesel::table! {
    /// Shared records of models that this version does not know.
    unknown_shared (model, id) {
        model -> Integer,
        id -> Binary,
        extra -> Nullable<Binary>,
        stamps -> Binary,
        alive -> Bool,
    }
}

diesel::table! {
    /// Our changes that a connected peer has not acknowledged, one row per peer and stream kind.
    retry (peer, kind) {
        peer -> Binary,
        kind -> Integer,
        attempts -> Integer,
        due_at_ms -> BigInt,
        error -> Text,
    }
}

diesel::table! {
    /// What was given up after the last attempt, until the peer acknowledges it or somebody decides.
    dead_letter (peer, kind) {
        peer -> Binary,
        kind -> Integer,
        through -> BigInt,
        attempts -> Integer,
        error -> Text,
        at_ms -> BigInt,
    }
}

diesel::table! {
    /// Tickets that we issued.
    ticket (id) {
        id -> Binary,
        secret -> Binary,
        expires_at_ms -> BigInt,
        used_by -> Nullable<Binary>,
    }
}
