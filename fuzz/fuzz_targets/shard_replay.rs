//! Brings a shard back from the records of a log that is not as it was; see `longtail_engine::fuzz::replay`.
#![cfg_attr(fuzzing, no_main)]

longtail_fuzz::fuzz_target!(|data: &[u8]| longtail_engine::fuzz::replay(data));
