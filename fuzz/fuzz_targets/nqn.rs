//! libFuzzer's entry to `fuzz::nqn`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nqn(data));
