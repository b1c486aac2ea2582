//! A folder that a device indexes.

crate::model! {
    /// An indexed folder; owned by the device that holds it.
    Location = 3, "location", Owned {
        /// The volume it lies on.
        1 VOLUME volume: crate::ids::RecordId,
        /// The entry that stands for the folder itself.
        2 ROOT root: crate::ids::RecordId,
        /// What to call it.
        3 NAME name: String,
        /// Its absolute path on its device, shown lossily when it is not UTF-8.
        4 PATH path: String,
        /// How many entries it holds.
        5 ENTRY_COUNT entry_count: i64,
        /// The sum of the sizes of its files, in bytes.
        6 BYTE_SIZE byte_size: i64,
        /// When the last scan ended, in milliseconds since 1970.
        7 LAST_SCAN_AT last_scan_at: i64,
        /// The path's raw bytes when they are not UTF-8.
        8 RAW_PATH raw_path: Vec<u8>,
    }
}
