//! A device as the others see it: each device owns its own row.

crate::model! {
    /// A member device. Whether it is online, and where, is local knowledge and never travels.
    Device = 1, "device", Owned {
        /// What its person calls it.
        1 NAME name: String,
        /// `linux`, `macos`, `windows`…
        2 OS os: String,
        /// The operating system's version.
        3 OS_VERSION os_version: String,
        /// The machine's architecture or product name.
        4 HARDWARE hardware: String,
        /// The version of Starling that it runs.
        5 APP_VERSION app_version: String,
    }
}
