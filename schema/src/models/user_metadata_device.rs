//! What one device remembers of an entry: the half of the metadata that each device owns.

use crate::ids::{DeviceId, RecordId};

crate::model! {
    /// How one device used one entry.
    UserMetadataDevice = 11, "user_metadata_device", Owned {
        /// The entry that it is about.
        1 TARGET target: crate::ids::RecordId,
        /// When it was last opened there, in milliseconds since 1970.
        2 LAST_OPENED_AT last_opened_at: i64,
        /// How often it was opened there.
        3 OPEN_COUNT open_count: i64,
    }
}

impl UserMetadataDevice {
    /// One device's half of an entry's metadata, with the id that it has everywhere.
    #[must_use]
    pub fn of(target: RecordId, device: DeviceId) -> Self {
        let mut metadata =
            Self::new(RecordId::derived("user_metadata_device", &[target.as_bytes(), device.0.as_bytes()]));
        metadata.target = Some(target);
        metadata
    }
}
