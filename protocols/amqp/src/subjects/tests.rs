//! Publishers that are not AMQP, and queues.

use bytes::Bytes;
use longtail_broker::client::block_on;
use longtail_broker::{Broker, BrokerConfig};
use longtail_model::Subject;

use super::*;
use crate::codec::ReplyCode;
use crate::config::Config;
use crate::graph::Destination;
use crate::tenant::Tenant;
use crate::topology::{Asker, Bind, DeclareExchange, DeclareQueue, Topology};

fn asker() -> Asker {
    Asker {
        connection: 1,
        vhost: "/".into(),
    }
}

async fn declare(topology: &Topology, name: &str) -> u64 {
    let declare = DeclareQueue {
        name: name.to_owned(),
        is_server_named: false,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Arc::default(),
    };
    let declared = topology.declare_queue(&asker(), declare).await;
    declared.unwrap().messages
}

fn bind(key: &str) -> Bind {
    Bind {
        source: "amq.topic".to_owned(),
        destination: Destination::Queue("q".into()),
        key: key.to_owned(),
        arguments: Arc::default(),
    }
}

/// How many streams keep it.
async fn publish(broker: &Broker, subject: &str) -> usize {
    let message = Message::new(Subject::new(subject).unwrap(), Bytes::from_static(b"x"));
    let published = broker.publish("default", Arc::new(message)).await.unwrap();
    published.streams.len()
}

#[test]
fn queues_are_reached_before_any_client_of_amqp_is_there() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    block_on(async {
        let tenant = Tenant::new(Config::default(), Arc::clone(&broker));
        let topology = tenant.topology(&"default".into()).await.unwrap();
        declare(&topology, "q").await;
        topology.bind(&asker(), bind("a.#")).await.unwrap();
        assert_eq!(publish(&broker, "a/b").await, 1);
        drop((topology, tenant));
        assert_eq!(publish(&broker, "a/b").await, 0);
    });
    let tenant = Tenant::new(Config::default(), Arc::clone(&broker));
    tenant.open_all().unwrap();
    block_on(async {
        assert_eq!(publish(&broker, "a/b").await, 1);
        let topology = tenant.topology(&"default".into()).await.unwrap();
        assert_eq!(declare(&topology, "q").await, 2);
        topology.unbind(&asker(), bind("a.#")).await.unwrap();
        assert_eq!(publish(&broker, "a/b").await, 0);
        // A queue that goes takes its bindings along.
        topology.bind(&asker(), bind("a.#")).await.unwrap();
        assert_eq!(publish(&broker, "a/b").await, 1);
        let deleted = topology.delete_queue(&asker(), "q", false, false).await;
        assert_eq!(deleted, Ok(3));
        assert_eq!(publish(&broker, "a/b").await, 0);
        assert!(broker.space("default").unwrap().router.is_empty());
    });
}

#[test]
fn the_exchange_can_be_none() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    let config = Config {
        subjects_exchange: None,
        ..Config::default()
    };
    let tenant = Tenant::new(config, Arc::clone(&broker));
    block_on(async {
        let topology = tenant.topology(&"default".into()).await.unwrap();
        declare(&topology, "q").await;
        topology.bind(&asker(), bind("#")).await.unwrap();
        assert_eq!(publish(&broker, "a/b").await, 0);
    });
}

#[test]
fn a_space_has_so_many_exchanges_and_bindings_and_no_more() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    block_on(async {
        let most = |exchanges_max| Config {
            exchanges_max,
            bindings_max: 1,
            ..Config::default()
        };
        let tenant = Tenant::new(most(0), Arc::clone(&broker));
        let there = tenant.topology(&"default".into()).await.unwrap();
        let (always_there, _) = there.graph().sizes();
        drop((there, tenant));
        let tenant = Tenant::new(most(always_there + 1), Arc::clone(&broker));
        let topology = tenant.topology(&"default".into()).await.unwrap();
        let exchange = |name: &str| DeclareExchange {
            name: name.to_owned(),
            kind: "direct".to_owned(),
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: Arc::default(),
        };
        let declared = topology.declare_exchange(&asker(), exchange("a")).await;
        declared.unwrap();
        let declared = topology.declare_exchange(&asker(), exchange("b")).await;
        assert_eq!(declared.unwrap_err().code, ReplyCode::PreconditionFailed);
        let declared = topology.declare_exchange(&asker(), exchange("a")).await;
        declared.unwrap();
        declare(&topology, "q").await;
        topology.bind(&asker(), bind("a")).await.unwrap();
        topology.bind(&asker(), bind("a")).await.unwrap();
        let bound = topology.bind(&asker(), bind("b")).await;
        assert_eq!(bound.unwrap_err().code, ReplyCode::PreconditionFailed);
    });
}
