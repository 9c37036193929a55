//! An authenticating gateway: devices prove who they are to a service of your own, each sees only its own topics, and
//! what it publishes is stamped with its identity.
//!
//! Run with `cargo run --example gateway`, then:
//! `mosquitto_pub -p PORT -V 5 -i lamp -u lamp -P secret-of-lamp -t state -m on`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use longtail::mqtt::Hook;
use longtail::mqtt::codec::ReasonCode;
use longtail::mqtt::hooks::{
    Access, ClientInfo, Decision, Permission, Points, Proof, Scope, Subscribing, Verdict, Wait,
};
use longtail::{Address, Longtail, Message};

/// Stands between the devices and the broker.
pub(crate) struct Gateway;

impl Gateway {
    /// Asks whoever knows the devices. Here that is a rule; yours is a request over the network.
    async fn is_known(device: &str, password: &[u8]) -> bool {
        tokio::task::yield_now().await;
        password == format!("secret-of-{device}").as_bytes()
    }
}

impl Hook for Gateway {
    fn name(&self) -> &str {
        "gateway"
    }

    fn points(&self) -> Points {
        Points::AUTHENTICATE | Points::AUTHORIZE | Points::SUBSCRIBE | Points::PUBLISH
    }

    fn authenticate<'a>(&'a self, proof: &'a Proof) -> Wait<'a, Decision> {
        Box::pin(async move {
            let device = proof.username.as_deref().unwrap_or_default();
            let password = proof.password.as_deref().unwrap_or_default();
            if device == &*proof.client_id && Self::is_known(device, password).await {
                Decision::admit_all()
            } else {
                Decision::Deny(ReasonCode::BadUserNameOrPassword)
            }
        })
    }

    fn authenticate_within(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn authorize(&self, _client: &ClientInfo, access: &Access<'_>) -> Permission {
        match access {
            // Before it is moved below the device's own topic; a filter is asked about behind that.
            Access::Publish { topic, .. } if topic.starts_with("config/") => Permission::Deny,
            _ => Permission::Next,
        }
    }

    fn subscribe(&self, client: &ClientInfo, asked: &Subscribing) -> Verdict<Subscribing> {
        Verdict::Replace(asked.at(format!("devices/{}/{}", client.id, asked.filter)))
    }

    fn publish(&self, client: &ClientInfo, message: &Arc<Message>) -> Verdict<Message> {
        let topic = format!("devices/{}/{}", client.id, message.subject);
        let Ok(subject) = longtail::model::Subject::parse_mqtt(&topic) else {
            return Verdict::Reject(ReasonCode::TopicNameInvalid);
        };
        let mut stamped = Message {
            subject,
            ..message.to_own()
        };
        stamped.headers.push("device", client.id.to_string());
        Verdict::Replace(stamped)
    }
}

/// A broker behind the gateway.
pub(crate) fn start(address: Address) -> Result<Longtail, Box<dyn Error>> {
    let broker = Longtail::builder()
        .in_memory()
        .mqtt(address)
        // Only for the devices: what the program itself publishes stays as it is.
        .mqtt_hook(Arc::new(Gateway), 0, Scope::Listener("127.0.0.1:0".into()))
        .start()?;
    Ok(broker)
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = start("127.0.0.1:0".parse()?)?;
    println!("devices connect to {}", broker.addresses()[0].address);
    let mqtt = broker.mqtt().ok_or("started above")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut all = mqtt.client("gateway").follow("devices/#", 1000)?;
    while let Some(message) = runtime.block_on(all.recv()) {
        println!("{}: {} bytes", message.subject, message.payload.len());
    }
    Ok(())
}
