//! A file system that a device has mounted.

crate::model! {
    /// A mounted file system; owned by the device that sees it.
    Volume = 2, "volume", Owned {
        /// The device that it is mounted on.
        1 DEVICE device: crate::ids::RecordId,
        /// What tells it from the device's other volumes across mounts.
        2 FINGERPRINT fingerprint: String,
        /// What to call it.
        3 NAME name: String,
        /// Where it is mounted.
        4 MOUNT_POINT mount_point: String,
        /// `ext4`, `apfs`, `ntfs`…
        5 FILE_SYSTEM file_system: String,
        /// Bytes in all.
        6 CAPACITY capacity: i64,
        /// Bytes free.
        7 AVAILABLE available: i64,
        /// Whether it can be unplugged.
        8 REMOVABLE removable: bool,
    }
}
