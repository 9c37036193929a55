//! Longtail inside a Rust program: the whole broker, with or without its protocols, in a few lines.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use longtail::Longtail;
//!
//! // Everything in memory, beanstalkd's protocol on a free port.
//! let broker = Longtail::builder().in_memory().beanstalk("127.0.0.1:0".parse()?).start()?;
//! println!("beanstalkd clients connect to {}", broker.addresses()[0].address);
//! broker.shut_down();
//! # Ok(())
//! # }
//! ```

#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
struct Embedding;

mod builder;
mod running;

pub use builder::{Builder, StartError, WebListener};
pub use longtail_amqp as amqp;
pub use longtail_broker::message::Message;
pub use longtail_broker::{Broker, BrokerConfig, BrokerError, Client};
pub use longtail_broker::{LiveSubscription, PublishedTo};
pub use longtail_edge::{Address, ListenerConfig};
pub use longtail_engine as engine;
pub use longtail_model as model;
pub use longtail_mqtt as mqtt;
pub use running::{ListeningOn, Longtail};
