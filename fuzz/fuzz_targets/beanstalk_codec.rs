#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| longtail_beanstalk::codec::fuzz(bytes));
