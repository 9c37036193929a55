//! Who wants a message.

use std::hint::black_box;

use anyhow::Result;
use longtail_broker::router::{Router, Routes, Subscription};
use longtail_model::{Filter, Subject};

const SUBSCRIPTIONS: u64 = 10_000;

pub(crate) fn look_up(times: u64) -> Result<()> {
    let router: Router<u64, u64> = Router::default();
    router.update(|batch| -> Result<()> {
        for number in 0..SUBSCRIPTIONS {
            let filter = Filter::parse_mqtt(&format!("site/{}/+/{number}/#", number % 500))?;
            batch.subscribe(&filter, number, Subscription::new(number))?;
        }
        Ok(())
    })?;
    let subject = Subject::parse_mqtt("site/17/line/2017/temperature")?;
    let mut routes = Routes::default();
    for _ in 0..times {
        router.routes(black_box(subject.as_ref()), &mut routes);
        black_box(routes.len());
    }
    Ok(())
}
