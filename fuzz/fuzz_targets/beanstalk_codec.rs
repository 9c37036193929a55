//! The beanstalk codec on arbitrary bytes.
#![cfg_attr(fuzzing, no_main)]

longtail_fuzz::fuzz_target!(|data: &[u8]| longtail_beanstalk::codec::fuzz(data));
