//! The load generator behind `longtail bench`: drives Longtail and the real peer alike and prints both side by side.
//!
//! From the command line to a table:
//! * [`cli`] holds the flags and [`run`] dispatches them; `compare` decides which subjects (a running target, a peer
//!   that it starts, the null sink, the generator alone) run which scenarios in which order, and folds rounds into medians;
//! * `scenario` turns a scenario into one or two loads, `measure` runs one load: it spreads the connections over
//!   generator threads, samples the server's CPU and memory at the edges of the measured window, and merges;
//! * `driver` is one generator thread, latencies in histograms; `network` what its bytes go through: non-blocking sockets
//!   on one epoll, or memory;
//! * `protocol` has the trait a protocol implements, and one file a protocol; `peer` the same for servers to start;
//! * `report` and `table` write JSON and Markdown.
//!
//! The driver knows bursts (commands sent in one write, then all their replies), never what the bytes mean.

pub mod cli;
mod compare;
mod disk;
mod driver;
mod environment;
mod error;
mod latency;
mod load;
mod measure;
mod network;
mod null;
mod peer;
mod pin;
mod probe;
mod progress;
mod protocol;
mod report;
mod scenario;
mod table;

pub use cli::BenchArgs;
pub use compare::run;
pub use error::BenchError;
