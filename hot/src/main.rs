//! The hot paths, one at a time and nothing else: what `cargo xtask instructions` counts.
//!
//! `longtail-hot NAME N` does the work of NAME N times after setting it up. What is set up is the same for any N, so that
//! the difference between two runs is the work alone. `longtail-hot list` prints the names.

mod codecs;
mod router;
mod shard;

use anyhow::{Context, Result, bail};

/// One path: its name, and the function that goes it so many times.
type Path = (&'static str, fn(u64) -> Result<()>);

const PATHS: &[Path] = &[
    ("beanstalk: a put is decoded", codecs::beanstalk_put),
    ("MQTT: a publish is decoded", codecs::mqtt_publish),
    (
        "MQTT: a prepared message is written to a subscriber",
        codecs::mqtt_prepared,
    ),
    ("AMQP: a publish is decoded", codecs::amqp_publish),
    (
        "router: a subject is looked up among 10,000 wildcards",
        router::look_up,
    ),
    ("shard: put, reserve, delete of a job", shard::job),
    (
        "shard: publish to a consumer that waits, acknowledgement",
        shard::pushed,
    ),
    (
        "shard: publish to a consumer that does not acknowledge",
        shard::given_away,
    ),
    (
        "shard: publish, then delivery from the backlog, acknowledgement",
        shard::backlog,
    ),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [list] if list == "list" => {
            for (name, _) in PATHS {
                println!("{name}");
            }
            Ok(())
        }
        [name, times] => {
            let path = PATHS.iter().find(|(known, _)| known == name);
            let (_, go) = path.with_context(|| format!("no path is called {name:?}"))?;
            go(times.parse().context("how often")?)
        }
        _ => bail!("usage: longtail-hot list | NAME TIMES"),
    }
}
