//! A client of this service in its own process: what the management API changes, it changes through a connection of the
//! user who asks, with the checks, the order and the reply texts that any client gets.

use std::sync::Arc;
use std::time::Duration;

use longtail_broker::auth::Grants;

use crate::codec::{Level, Method, Properties, ReplyCode};
use crate::exception::Exception;
use crate::link::{Answer, Delivery, Door, Event, Link, LinkError};

/// How long a message may take to be stored.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection with one channel. Dropping it closes both.
pub(super) struct Direct {
    link: Link,
}

impl From<LinkError> for Exception {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Channel { code, text } => told(code, &text, Level::Channel),
            LinkError::Closed { code, text } => told(code, &text, Level::Connection),
            LinkError::Encode(error) => Exception::new(ReplyCode::SyntaxError, error.to_string()),
            LinkError::Fault(fault) => Exception::from(fault),
            other => Exception::new(
                ReplyCode::InternalError,
                format!("the service cannot be reached from within: {other}"),
            ),
        }
    }
}

/// An exception as the server has told it.
fn told(code: u16, text: &str, level: Level) -> Exception {
    let known = ReplyCode::ALL.iter().find(|known| known.as_u16() == code);
    let code = known.copied().unwrap_or(ReplyCode::InternalError);
    let text = text
        .strip_prefix(code.name())
        .and_then(|text| text.strip_prefix(" - "))
        .unwrap_or(text);
    Exception {
        level,
        ..Exception::new(code, text)
    }
}

impl Direct {
    /// A connection of a user.
    ///
    /// # Errors
    /// What the service says, as it says it.
    pub(super) async fn open(
        door: &Door,
        user: &str,
        vhost: &str,
        grants: Arc<Grants>,
    ) -> Result<Self, Exception> {
        let link = door.open(user, vhost, grants).await?;
        Ok(Direct { link })
    }

    /// Says something on the channel and waits for the answer that says that it is done.
    ///
    /// # Errors
    /// The exception that the server answers with instead. The channel is closed then.
    pub(super) async fn call(&mut self, method: &Method<'_>) -> Result<(), Exception> {
        self.link.call(method).await?;
        Ok(())
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// When the service is gone.
    pub(super) async fn say(&mut self, method: &Method<'_>) -> Result<(), Exception> {
        self.link.say(method)?;
        Ok(self.link.flush().await?)
    }

    /// Fetches a message; `None`: there is none.
    ///
    /// # Errors
    /// The exception that the server answers with.
    pub(super) async fn get(
        &mut self,
        queue: &str,
        no_ack: bool,
    ) -> Result<Option<Box<Delivery>>, Exception> {
        let get = Method::BasicGet {
            ticket: 0,
            queue,
            no_ack,
        };
        match self.link.call(&get).await? {
            Answer::Got(got) => Ok(got),
            _ => Err(LinkError::Unexpected("no answer to a fetch").into()),
        }
    }

    /// Publishes a message and waits until it is stored: whether some queue has it.
    ///
    /// # Errors
    /// The exception that the server answers with.
    pub(super) async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        properties: &Properties<'_>,
        body: &[u8],
    ) -> Result<Published, Exception> {
        self.call(&Method::ConfirmSelect { no_wait: false }).await?;
        let mut octets = Vec::new();
        properties.encode(&mut octets).map_err(LinkError::from)?;
        self.link
            .publish((exchange, routing_key), true, (&octets, body))?;
        let mut routed = true;
        loop {
            match self.link.next() {
                Some(Event::Returned) => routed = false,
                Some(Event::Confirm { stored: false, .. }) => return Ok(Published::Refused),
                Some(Event::Confirm { .. }) if routed => return Ok(Published::Routed),
                Some(Event::Confirm { .. }) => return Ok(Published::Unroutable),
                Some(Event::ChannelClosed { code, text }) => {
                    return Err(LinkError::Channel { code, text }.into());
                }
                Some(_) => {}
                None => {
                    let turned = tokio::time::timeout(PATIENCE, self.link.turn(true)).await;
                    turned.unwrap_or(Err(LinkError::Late(PATIENCE.as_secs())))?;
                }
            }
        }
    }
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// Queues have it.
    Routed,
    /// No queue wants it.
    Unroutable,
    /// A queue does not take it.
    Refused,
}
