//! The protocol of beanstalkd: its listeners, and what the service asks of the broker around it.

use std::sync::Arc;

use longtail_beanstalk::{Beanstalk, CpuTime, Host, Identity, LogFacts, Tenant};
use longtail_broker::Broker;
use longtail_edge::Exposure;
use longtail_engine::runtime::Clock;
use longtail_engine::{Numbering, StreamName};
use longtail_model::{Lsn, ShardId, Timestamp};

use super::{ListeningOn, Longtail};
use crate::builder::StartError;

impl Longtail {
    pub(super) fn start_beanstalk(
        &mut self,
        mut config: longtail_beanstalk::Config,
        listeners: Vec<(
            longtail_edge::ListenerConfig,
            Arc<dyn longtail_beanstalk::Admission>,
        )>,
        exposure: Exposure,
    ) -> Result<(), StartError> {
        let numbering = Numbering::Shared(longtail_beanstalk::tenant::NUMBERING.into());
        let any = StreamName::new(Arc::clone(&config.space), "");
        config.shard = self.broker.placement(&any, &numbering);
        let host = BrokerHost {
            clock: self.broker.clock(),
            broker: Arc::clone(&self.broker),
            shard: config.shard,
        };
        let instance = self
            .broker
            .clock()
            .now()
            .0
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ u64::from(std::process::id());
        let tenant = Arc::new(Tenant::new(
            config,
            Identity::of_process(instance),
            Arc::new(host),
        )?);
        for (listener, admission) in listeners {
            exposure.check(&listener.address)?;
            let tls = listener.tls.is_some();
            let service = Beanstalk::new(Arc::clone(&tenant), self.broker.shards(), admission);
            let open =
                self.edge
                    .listen(listener, service)
                    .map_err(|source| StartError::Listen {
                        protocol: "beanstalk",
                        source: Box::new(source),
                    })?;
            self.addresses.push(ListeningOn {
                protocol: "beanstalk",
                address: open.local().to_string(),
                tls,
            });
        }
        self.beanstalk = Some(tenant);
        Ok(())
    }
}

/// What the beanstalk service asks of the world around it.
struct BrokerHost {
    clock: Arc<dyn Clock>,
    broker: Arc<Broker>,
    shard: ShardId,
}

impl Host for BrokerHost {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn cpu_time(&self) -> CpuTime {
        CpuTime::of_process()
    }

    fn log(&self) -> LogFacts {
        let segment_bytes = self.broker.config().segment_bytes;
        let facts = self.broker.log_facts(self.shard);
        LogFacts {
            oldest_segment: self.segment_of(facts.start),
            current_segment: self.segment_of(facts.end),
            records_migrated: facts.records_rewritten,
            records_written: facts.records_appended,
            segment_bytes,
        }
    }

    fn segment_of(&self, position: Lsn) -> u64 {
        if self.broker.durability() == longtail_model::Durability::Memory {
            return 0;
        }
        position.0 / self.broker.config().segment_bytes.max(1) + 1
    }
}
