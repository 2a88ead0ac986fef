//! The fuzz targets: one plain function per decoder, and operation sequences over a connection.
//!
//! `fuzz_targets/` hands each to libFuzzer; `crates/wire/tests/fuzz_bounded.rs` runs each over a
//! bounded number of mutated golden inputs in the normal tests. For an open-ended search, with
//! cargo-fuzz installed: `cargo fuzz run controller crates/wire/tests/golden` (nightly).

#[path = "../../crates/wire/tests/link/mod.rs"]
mod link;
mod targets;

macro_rules! export {
    ($($(#[$meta:meta])* $target:ident)*) => { $(
        $(#[$meta])*
        pub fn $target(data: &[u8]) {
            targets::$target(data);
        }
    )* };
}

export! {
    /// Submission queue entries.
    commands
    /// Data structures that a peer sends.
    structures
    /// NVMe qualified names.
    nqn
    /// The controller's end of a connection.
    controller
    /// The host's end of a connection.
    host
    /// Both ends and a model.
    pair
}
