//! The differential tests: the same seeded random commands go to the original and to Longtail, and everything that comes
//! back is compared. Each protocol has its own commands, and its own list of the differences that are expected. A
//! difference prints the seed that reproduces it.

pub(crate) mod amqp;
pub(crate) mod beanstalk;
pub(crate) mod mqtt;
