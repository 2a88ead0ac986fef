//! libFuzzer's entry to `fuzz::structures`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::structures(data));
