//! The MQTT codec on arbitrary bytes, in every version and both directions.
#![cfg_attr(fuzzing, no_main)]

longtail_fuzz::fuzz_target!(|data: &[u8]| longtail_mqtt::codec::fuzz(data));
