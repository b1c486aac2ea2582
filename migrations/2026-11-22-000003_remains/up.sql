-- Deleted shared records that still have their fields, and since when: what may be purged one day.
CREATE TABLE remains (
    model INTEGER NOT NULL,
    record BLOB NOT NULL,
    deleted_at_ms BIGINT NOT NULL,
    PRIMARY KEY (model, record)
);
CREATE INDEX remains_age ON remains (deleted_at_ms);

-- What was deleted before this table was there counts as deleted now.
INSERT INTO remains (model, record, deleted_at_ms)
SELECT model, id, unixepoch('now') * 1000 FROM (
    SELECT 5 AS model, id FROM tag WHERE NOT alive
    UNION ALL SELECT 6, id FROM tag_relationship WHERE NOT alive
    UNION ALL SELECT 7, id FROM tag_assignment WHERE NOT alive
    UNION ALL SELECT 8, id FROM collection WHERE NOT alive
    UNION ALL SELECT 9, id FROM collection_entry WHERE NOT alive
    UNION ALL SELECT 10, id FROM user_metadata WHERE NOT alive
    UNION ALL SELECT model, id FROM unknown_shared WHERE NOT alive
);
