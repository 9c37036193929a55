//! Opens a log directory made from the input; see `longtail_log::fuzz::recover`.
#![cfg_attr(fuzzing, no_main)]

longtail_fuzz::fuzz_target!(|data: &[u8]| longtail_log::fuzz::recover(data));
