//! The AMQP codec on arbitrary bytes: frames, methods, tables, properties.
#![cfg_attr(fuzzing, no_main)]

longtail_fuzz::fuzz_target!(|data: &[u8]| longtail_amqp::codec::fuzz(data));
