//! Opens a log directory made from the input; see `longtail_log::fuzz::recover`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| longtail_log::fuzz::recover(data));
