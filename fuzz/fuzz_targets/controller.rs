//! libFuzzer's entry to `fuzz::controller`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::controller(data));
