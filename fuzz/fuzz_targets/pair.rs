//! libFuzzer's entry to `fuzz::pair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::pair(data));
