//! A planted fault behind five branches: an engine that is guided by coverage finds it in seconds, one that guesses
//! needs 2^40 attempts.
#![cfg_attr(fuzzing, no_main)]

longtail_fuzz::fuzz_target!(|data: &[u8]| {
    if data.first() == Some(&b'l')
        && data.get(1) == Some(&b'o')
        && data.get(2) == Some(&b'n')
        && data.get(3) == Some(&b'g')
        && data.get(4) == Some(&b'!')
    {
        panic!("the planted fault");
    }
});
